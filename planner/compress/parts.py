"""Sorts the kinds of allocation that the simulation names into the parts of a peak that reports show.

The kinds are those of the meter (tests/meter). A kind that is not listed falls into `other`, so that the parts of
a step always sum to its peak.
"""

from collections.abc import Mapping

PARTS: tuple[str, ...] = ("weights", "activations", "hessians", "workspace", "observers", "cache", "other")
"""In reading order."""

PART_NAMES: Mapping[str, str] = {
    "weights": "weights",
    "activations": "activations",
    "hessians": "Hessians",
    "workspace": "workspace",
    "observers": "observers",
    "cache": "activation cache",
    "other": "other tensors",
}
"""What each part is called in the middle of a sentence."""

FUSED_EXPERTS = "fused experts"
"""Name of the owner of what `oneshot` keeps while it converts a mixture's experts."""

EXPERTS = ".experts."
"""Linear experts: model.layers.3.mlp.experts.17.up_proj"""

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
    "autoround": "workspace",
    "observer": "observers",
    "qparams": "observers",
    "activation_cache": "cache",
}
# On the CPU, scales and zero points lie beside the weights and are saved with them; samples only wait.
_CPU: Mapping[str, str] = {**_GPU, "qparams": "weights", "calibration_data": "other"}


def gpu_parts(by_kind: Mapping[str, int]) -> dict[str, int]:
    """The parts of a GPU peak, in reading order; they sum to what `by_kind` sums to."""
    return _parts(by_kind, _GPU)


def cpu_parts(by_kind: Mapping[str, int]) -> dict[str, int]:
    """The parts of a CPU peak, in reading order; they sum to what `by_kind` sums to."""
    return _parts(by_kind, _CPU)


def part_number(kind: str, device: str) -> int:
    """The place in PARTS of the part that shows this kind on this device."""
    return PARTS.index((_CPU if device == "cpu" else _GPU).get(kind, "other"))


def _parts(by_kind: Mapping[str, int], part_of: Mapping[str, str]) -> dict[str, int]:
    parts = dict.fromkeys(PARTS, 0)
    for kind, count in by_kind.items():
        parts[part_of.get(kind, "other")] += count
    return parts
