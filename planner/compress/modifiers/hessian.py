"""Hessians, as GPTQ and SparseGPT accumulate them: fp32, (columns x columns), one per module."""

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.models.traces import Call
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from planner.units import FP32


def hessian_bytes(columns: int) -> int:
    """make_empty_hessian: torch.zeros((columns, columns), dtype=float32)."""
    return columns * columns * FP32


class Hessians:
    """The accumulated Hessians of the modules seen since the last compress, in first-call order."""

    def __init__(self, context: Context, *, offload: bool = False, counter_bytes: int = 0) -> None:
        self._context, self._offload, self._counter_bytes = context, offload, counter_bytes
        self.held: dict[str, Handle] = {}
        self.counters: dict[str, Handle] = {}
        self.modules: dict[str, LinearModule] = {}

    def accumulate(self, module: LinearModule, call: Call) -> None:
        """calibrate_module, then accumulate_hessian (gptq/helpers.py, sparsegpt/sgpt_sparsify.py)."""
        context, owner = self._context, Owner(module.name, "Hessian")
        if module.name not in self.modules:
            self.modules[module.name] = module
            # make_empty_hessian reads module.weight, which onloads an lm_head that the forward never touches
            context.onload(f"{module.name}.weight", module.weight_bytes)
            self.held[module.name] = context.take(hessian_bytes(module.columns), "hessian", owner)
            if self._counter_bytes:
                self.counters[module.name] = context.take(
                    self._counter_bytes, "hessian_update", Owner(module.name, "num_samples")
                )
        elif self._offload:
            self._move(module, "gpu")
        with context.frame("hessian_update", module.name) as frame:
            if not call.contiguous:
                frame.assign("input as a matrix", call.rows * call.columns * call.itemsize)
            if call.itemsize == FP32:  # .to(float32) of a float32 tensor is the tensor itself
                frame.assign("scaled input", call.rows * call.columns * FP32)
            else:
                with frame.during(call.rows * call.columns * FP32, "input in fp32"):
                    frame.assign("scaled input", call.rows * call.columns * FP32)
            frame.temporary(hessian_bytes(call.columns), "input @ input.T")
        if self._offload:
            self._move(module, "cpu")

    def pop(self, name: str) -> Handle:
        """The Hessian leaves the dictionary; the caller holds it now."""
        del self.modules[name]
        return self.held.pop(name)

    def pop_counter(self, name: str) -> Handle | None:
        """The sample counter leaves its dictionary too; None where it is no tensor (only GPTQ's is one)."""
        return self.counters.pop(name, None)

    def _move(self, module: LinearModule, device: str) -> None:
        """sparsegpt/base.py _maybe_onload_hessian: a copy on the other device, then the old goes."""
        ledger, nbytes = self._context.ledger, hessian_bytes(module.columns)
        target = self._context.device if device == "gpu" else "cpu"
        copy = ledger.alloc(target, nbytes, "hessian", Owner(module.name, "Hessian"))
        ledger.free(self.held[module.name])
        self.held[module.name] = copy
