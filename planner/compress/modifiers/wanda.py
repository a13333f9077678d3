"""WandaPruningModifier: llmcompressor/modifiers/pruning/wanda/{base,wanda_sparsify}.py."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from planner.compress.context import Context, Frame
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.sparsity import SparsityFields, SparsitySpec, deep_inputs, shared_fields
from planner.compress.modifiers.writing import write_back
from planner.cuda import sorting
from planner.cuda.operands import Operand, OperatorCall
from planner.cuda.reductions import dense_buffers
from planner.cuda.requests import temporaries
from planner.errors import UnsupportedError
from planner.models.traces import Call
from planner.notes import Note
from planner.recipe.targets import LinearModule
from planner.recipe.validation import validated
from planner.timeline import Handle
from planner.units import FP32, INT64


@dataclass(frozen=True, slots=True, kw_only=True)
class WandaSpec(SparsitySpec):
    """WandaPruningModifier: it has no fields of its own."""

    type: ClassVar[str] = "WandaPruningModifier"

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses an entry that would prune every weight."""
        return cls(**shared_fields(validated(SparsityFields, fields, where), where))

    def failures(self, inputs: Iterable[tuple[str, int]]) -> Iterable[Note]:
        """Inputs of many dimensions."""
        return deep_inputs("Wanda", inputs)

    def model(self, context: Context) -> "WandaModel":
        """A number for each column of each module; one module at a time at the epoch's end."""
        return WandaModel(context, self)


class WandaModel(ModifierModel):
    """Row scalars while calibrating; a metric, a mask and maybe a sort of one weight at the epoch's end."""

    def __init__(self, context: Context, spec: WandaSpec) -> None:
        super().__init__(context)
        self.spec = spec
        self.scalars: dict[str, Handle] = {}
        self.modules: dict[str, LinearModule] = {}

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """base.py calibrate_module, then wanda_sparsify.py accumulate_row_scalars."""
        context = self.context
        if module.name not in self.modules:
            self.modules[module.name] = module
            # make_empty_row_scalars reads module.weight
            context.onload(f"{module.name}.weight", module.weight_bytes)
            self.scalars[module.name] = context.take(
                module.columns * FP32, "observer", Owner(module.name, "row scalars")
            )
        elements, vector = call.rows * call.columns, call.columns * FP32
        with context.frame("observer", module.name) as frame:
            if not call.contiguous:
                frame.assign("input as a matrix", elements * call.itemsize)
            if call.itemsize != FP32:
                frame.assign("input in fp32", elements * FP32)
                frame.delete("input as a matrix")
            frame.assign("norm", vector)
            if frame.build is not None:
                frame.operator(temporaries(*dense_buffers((call.rows, call.columns), (0,), FP32, frame.build)), "norm")
            frame.assign("square", vector)
            frame.delete("norm")
            frame.temporary(vector, "share of the samples")

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """base.py compress_modules: one module's result lives until the next module's result exists."""
        with self.context.frame("compress", "compress_modules") as frame:
            for name in list(self.modules):
                self._sparsify(frame, self.modules.pop(name))

    def _sparsify(self, caller: Frame, module: LinearModule) -> None:
        """wanda_sparsify.py sparsify_weight."""
        context, elements = self.context, module.rows * module.columns
        with (
            context.accessed(f"{module.name}.weight", module.weight_bytes),
            context.frame("compress", module.name) as frame,
        ):
            frame.assign("W", module.weight_bytes)
            if module.itemsize != FP32:
                frame.assign("W", elements * FP32)
            frame.bind("S", self.scalars.pop(module.name))
            with frame.during(elements * FP32, "abs(W)"), frame.during(module.columns * FP32, "sqrt(S)"):
                frame.assign("W_metric", elements * FP32)
            with frame.during(elements * FP32, "zeros"):
                frame.assign("W_mask", elements)
            if self.spec.prune_n:
                self._smallest_of_each_group(frame, module)
            else:
                self._smallest_of_each_row(frame, module)
            if module.itemsize != FP32:
                frame.assign("W", module.weight_bytes)
            result = frame.hand_over("W")
        caller.bind("sparsified_weight", result)
        write_back(context, module.name, "weight", module.weight_bytes, module.weight_bytes)

    def _smallest_of_each_group(self, frame: Frame, module: LinearModule) -> None:
        """mask.scatter_(1, ii + topk(tmp, n)[1], True), the same for every group of m columns."""
        chosen = module.rows * self.spec.prune_n
        with frame.during(chosen * INT64, "positions of the smallest"):
            with frame.during(chosen * FP32, "smallest of a group"):
                pass
            frame.temporary(chosen * INT64, "columns of the smallest")

    def _smallest_of_each_row(self, frame: Frame, module: LinearModule) -> None:
        """sort_res = torch.sort(W_metric, dim=-1, stable=True), both results of which live until the end."""
        elements = module.rows * module.columns
        frame.assign("sorted metric", elements * FP32)
        frame.assign("sorted positions", elements * INT64)
        if frame.build is None:
            return
        operand = Operand((module.rows, module.columns), (module.columns, 1), "float32")
        requests = sorting.sort(OperatorCall(name="sort", arguments=(operand, True, -1)), frame.build)
        if requests is None:
            shape = f"{module.rows} x {module.columns}"
            raise UnsupportedError(f"{module.name}: what sorting {shape} takes on sm_{frame.build.sm} was not measured")
        frame.operator(requests, "sort")
