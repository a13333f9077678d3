"""What GPTQ does with one batch of equal modules: gptq/base.py compress_module_list, gptq/{helpers,gptq_quantize}.py.

Python keeps the previous batch's tensors until the same names are assigned again, and so does this model.
"""

from typing import Protocol

from planner.compress.context import Context, Frame
from planner.compress.holdings import Owner
from planner.compress.modifiers.hessian import Hessians, hessian_bytes
from planner.compress.qparams import QParams
from planner.cuda import linalg
from planner.recipe.dtypes import zero_point_itemsize
from planner.recipe.qparams import scale_count
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from planner.units import FP32
from planner.upstream import GPTQ_MIN_BATCHED_CHOLESKY, GPTQ_TRITON_MAX_BLOCK


class BatchOwner(Protocol):
    """The modifier whose modules are quantized."""

    context: Context
    hessians: Hessians
    block_size: int

    def weight_qparams(self, module: LinearModule) -> QParams:
        """The module's scales and zero points; its statistics are freed."""


class Batch:
    """One iteration of base.py compress_module_list; `frame` holds the loop's names across batches."""

    def __init__(self, model: BatchOwner, frame: Frame, modules: list[LinearModule]) -> None:
        self.model, self.frame, self.modules = model, frame, modules
        self.context = model.context
        first = modules[0]
        assert first.scheme is not None and first.scheme.weights is not None
        self.args: QuantArgs = first.scheme.weights
        self.count, self.rows, self.columns = len(modules), first.rows, first.columns
        self.owner = Owner(first.name, copies=self.count)
        self.frame.owner = self.owner

    @property
    def stacked_weights(self) -> int:
        return self.count * self.rows * self.columns * FP32

    @property
    def stacked_hessians(self) -> int:
        return self.count * hessian_bytes(self.columns)

    def run(self) -> None:
        """prepare_batch, quantize_weight, update_batch_qparams."""
        qparams = [self.model.weight_qparams(module) for module in self.modules]
        self._bind_qparams(qparams)
        self._prepare(qparams)
        self._quantize(qparams[0])
        self._write_back(qparams[0])

    def _bind_qparams(self, qparams: list[QParams]) -> None:
        """batch_qparams = [...]: the previous batch's values are freed once the new list exists."""
        handles = [handle for q in qparams for handle in q.handles]
        self.frame.delete(*self.frame.names("batch_qparams"))
        for index, handle in enumerate(handles):
            self.frame.bind(f"batch_qparams {index}", handle)

    # ------------------------------------------------------------------ helpers.py prepare_batch
    def _prepare(self, qparams: list[QParams]) -> None:
        """The raw Hessian (a loop variable), the list of normalized ones and their stack are alive together."""
        context, hessians = self.context, self.model.hessians
        with context.frame("compress_inputs", self.owner) as frame:
            for index, module in enumerate(self.modules):
                frame.bind("raw Hessian", hessians.pop(module.name))
                counter = hessians.pop_counter(module.name)
                if counter is not None:
                    frame.bind("num_samples", counter)
                frame.assign(f"normalized Hessian {index}", hessian_bytes(self.columns), label="normalized Hessian")
            frame.assign("stacked Hessians", self.stacked_hessians)
            frame.delete(*(f"normalized Hessian {i}" for i in range(self.count)))
            frame.assign("stacked weights", self.stacked_weights)
            frame.assign("scales", self.count * qparams[0].scale_bytes)
            frame.assign("zero_points", self.count * qparams[0].zero_point_bytes)
            results = {
                name: frame.hand_over(name) for name in ("stacked Hessians", "stacked weights", "scales", "zero_points")
            }
        # the tuple is unpacked after the function has returned: only now do the old values go
        for name, handle in results.items():
            self.frame.bind(name, handle)

    # ------------------------------------------------------------------ gptq_quantize.py quantize_weight
    def _quantize(self, qparams: QParams) -> None:
        with self.context.frame("compress", self.owner) as frame:
            ordered = self.args.actorder in ("weight", "static")
            if ordered:
                self._order(frame)
            if self.args.strategy in ("group", "tensor_group", "block"):
                with frame.during(self.columns * 4, "arange"):
                    frame.assign("g_idx", self.columns * 4)
            frame.assign("row losses", self.count * self.rows * FP32)
            frame.assign("used_rtn_fallback", self.count)
            self._factorize(frame)
            self._blocks(frame, qparams)
            if ordered:
                frame.delete("W1", "Q1", "Err1", "losses1", "w_err")
                with frame.during(self.count * self.columns * 8, "sorted permutation"):
                    frame.assign("invperm", self.count * self.columns * 8)
                frame.assign("quantized", self.stacked_weights)
            frame.assign("losses", self.count * FP32)
            results = {
                name: frame.hand_over(name)
                for name in ("quantized", "losses", "used_rtn_fallback")
                if frame.holds(name)
            }
        if not ordered:
            # the result is the working buffer itself: it outlives the next batch's `weights = ...`
            self.frame.bind("quantized", self.frame.hand_over("stacked weights"))
        for name, handle in results.items():
            self.frame.bind(name, handle)

    def _order(self, frame: Frame) -> None:
        """helpers.py apply_activation_ordering: both Hessian axes gathered, then the weights."""
        with frame.during(self.count * self.columns * FP32, "sorted diagonal"):
            frame.assign("perm", self.count * self.columns * 8)
        frame.assign("permuted Hessians", self.stacked_hessians)
        frame.assign("permuted Hessians", self.stacked_hessians)
        frame.delete("permuted Hessians")
        frame.assign("permuted weights", self.stacked_weights)
        frame.delete("permuted weights")

    def _factorize(self, frame: Frame) -> None:
        """helpers.py factorize_hessian, with the copies that torch.linalg makes for `out=`.

        BatchLinearAlgebra.cpp: cholesky works on a column-major copy unless `out` is one, and
        cholesky_inverse takes a column-major result; BatchLinearAlgebraLib.cpp
        _cholesky_inverse_cusolver_potrs_based adds a copy of its input.
        """
        with frame.during(self.count * self.columns, "dead columns"):
            if self.context.cuda is not None:
                self._factorize_on_cuda(frame)
                return
            one = hessian_bytes(self.columns)
            size = one if self.count < GPTQ_MIN_BATCHED_CHOLESKY else self.stacked_hessians
            frame.temporary(size, "column-major copy in cholesky_ex", "cuda_workspace")
            with frame.during(size, "column-major result in cholesky_inverse", "cuda_workspace"):
                frame.temporary(size, "input copy in cholesky_inverse", "cuda_workspace")
            frame.temporary(size, "column-major copy in cholesky", "cuda_workspace")

    def _factorize_on_cuda(self, frame: Frame) -> None:
        """factorize_hessian: one matrix after another, or from MIN_BATCHED_CHOLESKY_SIZE on all together."""
        one_by_one = self.count < GPTQ_MIN_BATCHED_CHOLESKY
        for _ in range(self.count if one_by_one else 1):
            batch = 1 if one_by_one else self.count
            frame.operator(linalg.cholesky_ex(self.columns, batch=batch, into=True), "cholesky_ex")
            frame.operator(linalg.cholesky_inverse(self.columns, batch=batch, into=True), "cholesky_inverse")
            frame.operator(linalg.cholesky(self.columns, batch=batch, into=True), "cholesky")

    # ------------------------------------------------------------------ the column blocks
    def _blocks(self, frame: Frame, qparams: QParams) -> None:
        starts = list(range(0, self.columns, self.model.block_size))
        for start in self.context.shortcuts.of_blocks(starts):
            self._block(frame, qparams, start, min(start + self.model.block_size, self.columns))

    def _block(self, frame: Frame, qparams: QParams, start: int, end: int) -> None:
        width = end - start
        elements = self.count * self.rows * width
        for name in ("W1", "Q1", "Err1", "losses1"):
            frame.assign(name, elements * FP32)
        if width <= GPTQ_TRITON_MAX_BLOCK and width & (width - 1) == 0:
            self._fused_update(frame, qparams, width, elements)
        else:
            self._eager_update(frame, qparams, width, elements)
        frame.temporary(self.count * self.rows * FP32 * 2, "sum(losses1) / 2")
        frame.assign("w_err", self.count * self.rows * (self.columns - end) * FP32)

    def _window(self, frame: Frame, qparams: QParams, width: int, elements: int) -> None:
        """helpers.py column_scale_window: effective scales (and zero points) per row and column."""
        if self.args.strategy in ("group", "tensor_group", "block"):
            frame.assign("idx", width * 8)
        scale_item = max(1, qparams.scale_bytes // max(1, self._scales()))
        if self.args.strategy == "block":
            frame.assign(
                "eff",
                elements // self.rows * -(-self.rows // (self.args.block_structure or (128, 128))[0]) * scale_item,
            )
        frame.assign("eff", elements * scale_item)
        if self.args.strategy == "tensor_group":
            frame.assign("eff", elements * FP32)  # divided by the fp32 global scale
        if not self.args.symmetric:
            frame.assign("zp", elements * zero_point_itemsize(self.args))
            frame.assign("zp", elements * FP32)

    def _scales(self) -> int:
        return scale_count(self.rows, self.columns, self.args)

    def _fused_update(self, frame: Frame, qparams: QParams, width: int, elements: int) -> None:
        """gptq_quantize.py _gptq_block_update_triton."""
        self._window(frame, qparams, width, elements)
        frame.temporary(elements * FP32, "Err1.square()")
        frame.delete("idx", "eff", "zp")

    def _eager_update(self, frame: Frame, qparams: QParams, width: int, elements: int) -> None:
        """gptq_quantize.py gptq_block_update: column by column; the first update is the widest."""
        self._window(frame, qparams, width, elements)
        column = self.count * self.rows * FP32
        with frame.during(4 * column, "column, its quantization and error"):
            frame.temporary(elements * FP32, "error x Hinv row")
        frame.delete("idx", "eff", "zp")

    # ------------------------------------------------------------------ helpers.py update_batch_qparams
    def _write_back(self, qparams: QParams) -> None:
        """Each module's slice is cast to the stored dtype, while the previous module's dict is still alive."""
        with self.context.frame("writeback", self.owner) as frame:
            for module in self.modules:
                scales, zeros = self._scales(), zero_point_itemsize(self.args)
                stored = self._scales() * module.itemsize
                written_sizes = {"weight": module.weight_bytes}
                if stored != qparams.scale_bytes:
                    written_sizes["weight_scale"] = stored
                if scales * zeros != qparams.zero_point_bytes:
                    written_sizes["weight_zero_point"] = scales * zeros
                self.context.written(module.weight_bytes + stored + scales * zeros)
                written = {
                    n: self.context.take(size, "writeback", Owner(module.name, f"{n} written back"))
                    for n, size in written_sizes.items()
                }
                for name, handle in written.items():
                    frame.bind(name, handle)
                if self.context.is_on_disk(module.name):
                    self.context.copied_to_disk(module.weight_bytes, Owner(module.name, "weight written back"))
                if self.args.strategy == "tensor_group":
                    self.context.onload(f"{module.name}.weight_global_scale", 4, "qparams")
