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
# What a GPU holds as copies of what is in RAM, or for CUDA's own libraries: a process that computes on the CPU has no
# second one, and LAPACK works in place.
_OF_A_GPU = {"weights", "model", "batch", "cuda_workspace"}


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
    kinds = [(kind, size) for kind, size in by_kind.items() if kind not in ("model", "cuda_workspace")]
    kinds += [(kind, size) for kind, size in on_gpu.items() if kind not in _OF_A_GPU]
    for kind, size in kinds:
        part = _PARTS.get(kind, "tensors")
        parts[part] = parts.get(part, 0) + size
    return parts


def in_heap(parts: Mapping[HostPart, int], largest: Iterable[Owned], block: int) -> int:
    """Bytes of a step's temporaries that malloc places in its heap: blocks below `block`, as far as `largest` tells."""
    large = (each.bytes for each in largest if _is_temporary(each.kind) and each.bytes // each.copies >= block)
    return max(0, parts.get("tensors", 0) - sum(large))


def _is_temporary(kind: str) -> bool:
    return kind not in _PARTS and kind not in _OF_A_GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is there whatever the plan says: libraries, malloc, workers, CUDA's host side."""

    constants: HostConstants
    setting: HostSetting
    modules: int

    def moment(
        self,
        phase: HostPhaseName,
        step: int | None,
        pages: WeightPages,
        parts: Mapping[HostPart, int],
    ) -> HostMoment:
        """A moment of these weights and these other parts."""
        code, _ = self._made(phase)
        gpu_files = self.constants.cuda_file if self._has_cuda(phase) else 0
        around: dict[HostPart, int] = {
            **self._around(phase),
            "mapped checkpoint": pages.mapped,
            "weights": pages.copies,
            "written weights": pages.written,
        }
        sums = {part: parts.get(part, 0) + around.get(part, 0) for part in (*around, *parts)}
        files = self.constants.imports_file + code + gpu_files
        return HostMoment(phase=phase, step=step, parts=sums, reclaimable=files + pages.mapped)

    def _around(self, phase: HostPhaseName) -> dict[HostPart, int]:
        known = self.constants
        cuda = known.cuda_anonymous + known.cuda_file + known.staging
        return {
            "imports": known.imports_anonymous + known.imports_file + sum(self._made(phase)),
            "CUDA": cuda if self._has_cuda(phase) else 0,
            "workers": self.setting.dataloader_workers * known.worker if phase != "load" else 0,
        }

    def _has_cuda(self, phase: HostPhaseName) -> bool:
        return self.setting.gpu and phase != "load"

    def _made(self, phase: HostPhaseName) -> tuple[int, int]:
        """Code that was read since the imports, and objects that were made."""
        known, modules = self.constants, self.modules * self.constants.module_objects
        if phase == "load":
            return known.code_loading, known.objects_loading + modules
        if phase in ("setup", "prepare"):
            return known.code_setup, known.objects_setup + modules
        return known.code, known.objects + modules

    def kept_by_malloc(self, most: int, now: int) -> int:
        """Free memory between live blocks, once temporaries took `most` bytes in one step, where they take `now`."""
        known = self.constants
        took = min(most, 4 * known.heap_block)
        freed = took - min(now, took)
        shares = took * known.heap_share_percent + freed * known.heap_freed_percent
        return min(took, known.heap_kept) + shares // 100
