"""One moment of the process, in parts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from planner.compress.host_schema import HostPart, HostPhaseName, HostSetting
from planner.compress.schema import Owned
from planner.sizing.host_constants import HostConstants
from planner.sizing.weight_pages import WeightPages

# Kinds of the plan's CPU steps that are not simply tensors of the moment. `model`: the weights, whose pages are walked.
_PARTS: Mapping[str, HostPart] = {
    "qparams": "weights",
    "activation_cache": "activation cache",
    "calibration_data": "calibration data",
}
# What a GPU holds as copies of what is in RAM: a process that computes on the CPU has no second one.
_COPIES = {"weights", "model", "batch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMoment:
    """Parts of the process, and how many of their bytes the kernel can drop."""

    phase: HostPhaseName
    step: int | None
    parts: Mapping[HostPart, int]
    reclaimable: int

    @property
    def resident(self) -> int:
        return sum(self.parts.values())

    @property
    def must_have(self) -> int:
        return self.resident - self.reclaimable


def by_part(by_kind: Mapping[str, int], on_gpu: Mapping[str, int]) -> dict[HostPart, int]:
    """The plan's kinds as parts, weights left out; `on_gpu` are those that a process without a GPU holds as well."""
    parts: dict[HostPart, int] = {}
    kinds = [(kind, size) for kind, size in by_kind.items() if kind != "model"]
    kinds += [(kind, size) for kind, size in on_gpu.items() if kind not in _COPIES]
    for kind, size in kinds:
        part = _PARTS.get(kind, "tensors")
        parts[part] = parts.get(part, 0) + size
    return parts


def in_heap(parts: Mapping[HostPart, int], largest: Iterable[Owned], block: int) -> int:
    """Bytes of a step's temporaries that malloc places in its heap: blocks below `block`, as far as `largest` tells."""
    large = (each.bytes for each in largest if _is_temporary(each.kind) and each.bytes // each.copies >= block)
    return max(0, parts.get("tensors", 0) - sum(large))


def _is_temporary(kind: str) -> bool:
    return kind not in _PARTS and kind not in _COPIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is there whatever the plan says: libraries, malloc, workers, CUDA's host side."""

    constants: HostConstants
    setting: HostSetting

    def moment(
        self,
        phase: HostPhaseName,
        step: int | None,
        pages: WeightPages,
        parts: Mapping[HostPart, int],
    ) -> HostMoment:
        """A moment of these weights and these other parts."""
        known, ready = self.constants, phase != "load"
        all_parts = dict(parts)
        for part, size in self._around(ready).items():
            all_parts[part] = all_parts.get(part, 0) + size
        all_parts["mapped checkpoint"] = all_parts.get("mapped checkpoint", 0) + pages.mapped
        all_parts["weights"] = all_parts.get("weights", 0) + pages.copies
        all_parts["written weights"] = pages.written
        files = known.imports_file + (known.lazy_file if ready else known.lazy_file // 2)
        files += known.cuda_file if ready and self.setting.gpu else 0
        return HostMoment(phase=phase, step=step, parts=all_parts, reclaimable=files + pages.mapped)

    def _around(self, ready: bool) -> dict[HostPart, int]:
        known = self.constants
        lazy = known.lazy_anonymous + known.lazy_file
        return {
            "imports": known.imports_anonymous + known.imports_file + (lazy if ready else lazy // 2),
            "CUDA": known.cuda_anonymous + known.cuda_file + known.staging if ready and self.setting.gpu else 0,
            "workers": self.setting.dataloader_workers * known.worker if ready else 0,
        }

    def kept_by_malloc(self, most: int) -> int:
        """Free memory between live blocks, once temporaries took so many bytes in one step."""
        known = self.constants
        in_heap = min(most, 4 * known.heap_block)
        return min(in_heap, known.heap_kept) + in_heap * known.heap_share_percent // 100
