"""What AWQ keeps while it calibrates: llmcompressor/modifiers/transform/awq/base.py `_setup_activation_cache_hooks`.

For each mapping the mean of its activations, a few bytes a column; for each parent of balanced layers all arguments of
all batches, which is what grows with the samples. At the epoch's end the search runs (awq_search.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.modifiers.awq_loss_mask import marked_activations
from planner.compress.modifiers.awq_search import AwqSearch, AwqSmoothing, Statistics
from planner.compress.modifiers.base import ModifierModel
from planner.cuda.operands import Operand
from planner.cuda.reductions import buffer_sizes
from planner.cuda.requests import RESULT, temporaries, then
from planner.models.traces import Call
from planner.recipe.targets import LinearModule
from planner.units import FP32, INT64


@dataclass(slots=True)
class _Hook:
    """What one module's forward hooks serve."""

    is_parent: bool = False
    smooths: tuple[str, ...] = ()
    """Names of the layers whose output this module's input is."""


class AwqModel(ModifierModel):
    """Hooks on parents and on the first of balanced layers."""

    keeps_batches = True

    def __init__(self, context: Context, smoothings: Sequence[AwqSmoothing], points: Sequence[bool], *, offload: bool):
        super().__init__(context)
        self.smoothings = tuple(smoothings)
        self.search = AwqSearch(context, points, offload=offload)
        self.offload = offload
        self._hooks: dict[str, _Hook] = {}
        for one in self.smoothings:
            self._hooks.setdefault(one.parent, _Hook()).is_parent = True
            hook = self._hooks.setdefault(one.hook, _Hook())
            hook.smooths = (*hook.smooths, one.smooth.name)

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """cache_parent_kwargs_hook."""
        hook = self._hooks.get(module.name)
        if hook is not None and hook.is_parent:
            self.search.arguments.keep(module.name, call)

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """cache_smooth_activations_hook; of a parent, what it returns."""
        hook = self._hooks.get(module.name)
        if hook is None:
            return
        if hook.is_parent and call.outputs:
            self.search.arguments.returned(module.name, call)
        for name in hook.smooths:
            self._observe(name, module, call)

    def _observe(self, name: str, module: LinearModule, call: Call) -> None:
        """activations = args[0].abs().detach(); new_sum = masked_activations.float().sum(dim=0).cpu()"""
        numel, width = call.rows * call.columns, call.columns * FP32
        with self.context.frame("awq", Owner(module.name, "activations")) as frame:
            frame.assign("activations", numel * call.itemsize)
            if self.context.job.loss_mask:
                marked_activations(frame, call.rows, numel * call.itemsize, is_copied=self._masks_wait_elsewhere)
            frame.assign("in fp32", numel * FP32)
            build = frame.build
            if build is None:
                frame.assign("sum", width)
            else:
                buffers = buffer_sizes(
                    Operand((call.rows, call.columns), (call.columns, 1), "float32"), (0,), FP32, build
                )
                frame.result("sum", width, then((RESULT,), temporaries(*buffers)))
            frame.delete("in fp32")
            with self.context.ledger.hold("cpu", width + INT64, "awq", Owner(name, "new sum")):
                frame.delete("sum")
                if name not in self.search.statistics:
                    handle = self.context.ledger.alloc(
                        "cpu", width + INT64, "awq", Owner(name, "activation statistics")
                    )
                    self.search.statistics[name] = Statistics(handle, call.columns)

    @property
    def _masks_wait_elsewhere(self) -> bool:
        """pipelines/basic/pipeline.py keeps them on the CPU."""
        return self.context.job.pipeline == "basic" and self.context.device == "gpu"

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """base.py `_apply_smoothing`: the mappings whose activations were seen, in the order of the mappings."""
        self.search.run([one for one in self.smoothings if one.smooth.name in self.search.statistics])

    def on_calibration_end(self) -> None:
        """base.py `on_finalize`: what was kept of parents that nothing was smoothed with."""
        self.search.clear()
