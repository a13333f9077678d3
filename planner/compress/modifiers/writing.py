"""Writing a parameter back: what `update_offload_parameter` takes where the new value has another type."""

from planner.compress.context import Context
from planner.compress.holdings import Owner


def write_back(context: Context, module: str, name: str, stored: int, computed: int) -> None:
    """compressed_tensors offload/cache/base.py OffloadCache.__setitem__, with `computed` bytes for a parameter that has
    `stored`; the caller holds the new value on the computing device.

    On the CPU a value of another type arrives as it is, and is cast there: ATen/native/cuda/Copy.cu copy_kernel_cuda.
    A file gets it cast on the GPU (cache/disk.py `update_offload`).
    """
    context.written(stored)
    owner = Owner(f"{module}.{name}", "before its cast")
    if context.is_on_disk(module):
        with context.frame("writeback", f"{module}.{name}") as frame:
            if stored != computed:
                frame.assign("cast", stored)
            context.copied_to_disk(stored, owner)
    elif stored != computed and context.device == "gpu" and not context.weights_on_gpu:
        with context.ledger.hold("cpu", computed, "model", owner):
            pass
