"""SparseGPTModifier: llmcompressor/modifiers/pruning/sparsegpt/{base,sgpt_base,sgpt_sparsify}.py."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import Field

from planner.compress.context import Context, Frame
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.hessian import Hessians, hessian_bytes
from planner.compress.modifiers.sparsity import SparsityFields, SparsitySpec, deep_inputs, failure, shared_fields
from planner.cuda import linalg
from planner.models.traces import Call
from planner.notes import Note
from planner.recipe.targets import LinearModule
from planner.recipe.validation import validated
from planner.units import FP32


class SparseGPTFields(SparsityFields):
    """Fields of SparseGPTModifier (modifiers/pruning/sparsegpt/base.py)."""

    block_size: int = Field(default=128, ge=1)
    dampening_frac: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    preserve_sparsity_mask: bool = False
    offload_hessians: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseGPTSpec(SparsitySpec):
    """SparseGPTModifier."""

    type: ClassVar[str] = "SparseGPTModifier"
    block_size: int = 128
    dampening_frac: float | None = 0.01
    preserve_sparsity_mask: bool = False
    offload_hessians: bool = False

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses an entry that would prune every weight."""
        entry = validated(SparseGPTFields, fields, where)
        return cls(
            **shared_fields(entry, where),
            block_size=entry.block_size,
            dampening_frac=entry.dampening_frac,
            preserve_sparsity_mask=entry.preserve_sparsity_mask,
            offload_hessians=entry.offload_hessians,
        )

    @property
    def has_hessians(self) -> bool:
        """One for each module."""
        return True

    def failures(self, inputs: Iterable[tuple[str, int]]) -> Iterable[Note]:
        """Two cases that the library's functions fail on: offloaded Hessians, and inputs of many dimensions."""
        if self.offload_hessians:
            # sgpt_sparsify.py sparsify_weight divides a GPU tensor by the CPU Hessian's diagonal
            yield failure(
                "with offload_hessians, SparseGPT compresses with the Hessian on the "
                "CPU and the weight on the GPU ('Expected all tensors to be on the same device'). Leave it out."
            )
        yield from deep_inputs("SparseGPT", inputs)

    def model(self, context: Context) -> "SparseGPTModel":
        """Hessians, taken one by one at the epoch's end."""
        return SparseGPTModel(context, self)


class SparseGPTModel(ModifierModel):
    """Hessians while calibrating; module by module at the epoch's end."""

    def __init__(self, context: Context, spec: SparseGPTSpec) -> None:
        super().__init__(context)
        self.spec = spec
        self.hessians = Hessians(context, offload=spec.offload_hessians)

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """sgpt_base.py hooks what it selects with calibrate_module."""
        self.hessians.accumulate(module, call)

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """base.py compress_modules: one module's result lives until the next module's result exists."""
        with self.context.frame("compress", "compress_modules") as frame:
            for module in list(self.hessians.modules.values()):
                self._sparsify(frame, module)

    def _sparsify(self, caller: Frame, module: LinearModule) -> None:
        """sgpt_sparsify.py sparsify_weight."""
        context, matrix = self.context, module.rows * module.columns * FP32
        with (
            context.accessed(f"{module.name}.weight", module.weight_bytes),
            context.frame("compress", module.name) as frame,
        ):
            frame.assign("W", module.weight_bytes)
            self._take_hessian(frame, module)
            if module.itemsize != FP32:
                frame.assign("W", matrix)
            self._invert(frame, module)
            if self.spec.preserve_sparsity_mask:
                with frame.during(module.rows * module.columns, "W == 0"):
                    frame.assign("mask", module.rows * module.columns)
                frame.temporary(module.rows * module.columns, "mask.sum() input")
            frame.assign("losses", module.rows * FP32)
            self._blocks(frame, module)
            if module.itemsize != FP32:
                frame.assign("W", module.weight_bytes)
            result = frame.hand_over("W")
        context.written(module.weight_bytes)
        caller.bind("sparsified_weight", result)
        if context.is_on_disk(module.name):
            context.copied_to_disk(module.weight_bytes, Owner(module.name, "weight written back"))

    def _take_hessian(self, frame: Frame, module: LinearModule) -> None:
        """The Hessian leaves the dictionary; an offloaded one stays where it is.

        With offload_hessians the library factorizes on the CPU: compress_modules, unlike
        calibrate_module, does not enter _maybe_onload_hessian.
        """
        frame.bind("H", self.hessians.pop(module.name))

    def _invert(self, frame: Frame, module: LinearModule) -> None:
        """cholesky, cholesky_inverse, cholesky: each result beside its input.

        BatchLinearAlgebraLib.cpp _cholesky_inverse_cusolver_potrs_based copies the input once more.
        """
        size = hessian_bytes(module.columns)
        frame.temporary(module.columns * (FP32 + 1), "dead columns")
        frame.assign("diag", module.columns * 8)
        frame.temporary(2 * module.columns * FP32, "H[diag, diag] + damp")
        if self.spec.offload_hessians:
            self._invert_on_cpu(frame, size)
        elif self.context.cuda is not None:
            columns = module.columns
            frame.result("H", size, linalg.cholesky(columns))
            frame.result("H", size, linalg.cholesky_inverse(columns))
            frame.result("H", size, linalg.cholesky(columns))
        else:
            frame.assign("H", size)
            with frame.during(size, "input copy in cholesky_inverse", "cuda_workspace"):
                frame.assign("H", size)
            frame.assign("H", size)

    def _invert_on_cpu(self, frame: Frame, size: int) -> None:
        ledger = self.context.ledger
        for _ in range(3):
            frame.bind("H", ledger.alloc("cpu", size, "compress", frame.owner.part("H")))

    # ------------------------------------------------------------------ the column blocks
    def _blocks(self, frame: Frame, module: LinearModule) -> None:
        starts = list(range(0, module.columns, self.spec.block_size))
        for start in self.context.shortcuts.of_blocks(starts):
            self._block(frame, module, start, min(start + self.spec.block_size, module.columns))

    def _block(self, frame: Frame, module: LinearModule, start: int, end: int) -> None:
        elements = module.rows * (end - start)
        for name in ("W1", "Q1", "Err1", "Losses1"):
            frame.assign(name, elements * FP32)
        if self.spec.prune_n == 0:
            self._unstructured_mask(frame, elements)
        elif not self.spec.preserve_sparsity_mask:
            with frame.during(elements * FP32, "zeros"):
                frame.assign("mask1", elements)
        self._columns(frame, module, elements)
        remaining = module.rows * (module.columns - end)
        with frame.during(remaining * FP32, "Err1 @ Hinv"):
            if self.spec.preserve_sparsity_mask:
                with frame.during(remaining, "~mask"):
                    frame.temporary(remaining * FP32, "masked update")

    def _unstructured_mask(self, frame: Frame, elements: int) -> None:
        """tmp = W1**2 / diag**2; thresh = sort(tmp)[0][k]: values and int64 indices; tmp <= thresh."""
        wide = elements * FP32
        if self.spec.preserve_sparsity_mask:
            with frame.during(elements, "~mask"), frame.during(wide, "W1**2"):
                frame.temporary(wide, "(~mask) * W1**2")
        with frame.during(wide, "W1**2"):
            frame.assign("tmp", wide)
        with frame.during(elements * 8, "sort indices"):
            frame.assign("thresh", wide)
        frame.assign("mask1", elements)

    def _columns(self, frame: Frame, module: LinearModule, elements: int) -> None:
        """The first column's update is the widest: it covers the whole block."""
        column = module.rows * FP32
        if self.spec.prune_n:
            group = module.rows * self.spec.prune_m * FP32
            frame.assign("tmp", group)
            with frame.during(module.rows * self.spec.prune_n * FP32, "topk values"):
                frame.temporary(module.rows * self.spec.prune_n * 16, "topk indices")
        frame.assign("w", 0)
        frame.assign("q", column)
        frame.temporary(3 * column, "(w - q)**2 / d**2")
        frame.assign("err1", column)
        frame.temporary(elements * FP32, "err1 x Hinv row")
