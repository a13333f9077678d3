"""From kinds of allocation, which the simulation names, to the parts of a peak that reports show.

The kinds are those of the meter. A kind that is not listed falls into `other`, so that the parts of
a step always sum to its peak.
"""

from collections.abc import Mapping

GPU_PARTS: tuple[str, ...] = ("weights", "activations", "hessians", "workspace", "observers", "cache", "other")
CPU_PARTS: tuple[str, ...] = ("weights", "cache", "other")

PART_NAMES: Mapping[str, str] = {
    "weights": "weights",
    "activations": "activations",
    "hessians": "Hessians",
    "workspace": "workspace",
    "observers": "observers",
    "cache": "activation cache",
    "other": "other tensors",
}
"""The parts in the middle of a sentence."""

_GPU: Mapping[str, str] = {
    "weights": "weights",
    "model": "weights",
    "forward": "activations",
    "batch": "activations",
    "calibration_data": "activations",
    "hessian": "hessians",
    "hessian_update": "workspace",
    "compress_inputs": "workspace",
    "compress": "workspace",
    "cuda_workspace": "workspace",
    "writeback": "workspace",
    "awq": "workspace",
    "smoothquant": "workspace",
    "observer": "observers",
    "qparams": "observers",
    "activation_cache": "cache",
}
_CPU: Mapping[str, str] = {
    "model": "weights",
    "weights": "weights",
    "qparams": "weights",  # on the CPU, scales and zero points live and are saved with the weights
    "activation_cache": "cache",
}


def gpu_parts(by_kind: Mapping[str, int]) -> dict[str, int]:
    """The parts of a GPU peak, in reading order; they sum to what `by_kind` sums to."""
    parts = dict.fromkeys(GPU_PARTS, 0)
    for kind, count in by_kind.items():
        parts[_GPU.get(kind, "other")] += count
    return parts


def cpu_parts(by_kind: Mapping[str, int]) -> dict[str, int]:
    """The parts of a CPU peak, in reading order; they sum to what `by_kind` sums to."""
    parts = dict.fromkeys(CPU_PARTS, 0)
    for kind, count in by_kind.items():
        parts[_CPU.get(kind, "other")] += count
    return parts
