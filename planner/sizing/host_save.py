"""What save adds: compressed copies beside the weights that they replace, module by module, then the writing.

llmcompressor compressed_tensors_utils.py `save_pretrained_wrapper`: `ModelCompressor.compress_model` walks the modules
(compressors/base.py `compress_module`, utils/module.py `replace_direct_state_dict`). A weight that is a view of a file
gives nothing back when it is replaced: the mapping stays whole as long as one view of it lives. A weight that is the
process's own is freed, and malloc keeps it for the next copies unless it was a block of the kernel's. safetensors 0.8
writes from pointers; what calibration did not read is read now.
"""

from dataclasses import dataclass

from planner.sizing.host_constants import HostConstants
from planner.sizing.host_facts import CompressedModule, HostModel
from planner.sizing.weight_pages import WeightPages, WeightWalk


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveMoment:
    """One moment of save."""

    pages: WeightPages
    copies: int
    transient: int
    kept: int
    """Weights that were freed and are malloc's, until copies take their place."""
    lost: int = 0
    """Copies that were written to disk and freed, and are malloc's for good."""

    @property
    def own(self) -> int:
        """What the kernel cannot drop."""
        return self.pages.own + self.copies + self.transient + self.kept + self.lost


def save_moments(walk: WeightWalk, before: WeightPages, *, repacks: bool, gpu: bool) -> tuple[SaveMoment, ...]:
    """The highest moment of compressing, and that of writing. `before`: the pages when save begins. With a GPU,
    modules are onloaded there and compressed there: RAM gets the copies alone."""
    # linearize.py repack_moe keeps every Linear expert in a list until it returns, as linearize_moe keeps the fused
    packed = [SaveMoment(pages=before, copies=0, transient=walk.model.experts_bytes, kept=0)] if repacks else []
    highest, last = _compress(walk, before, gpu)
    writing = walk.after(everything=True)
    pages = WeightPages(
        mapped=max(writing.mapped, last.pages.mapped) + _loaded_shard(walk),
        copies=last.pages.copies,
        written=max(writing.written, last.pages.written),
    )
    return *packed, highest, SaveMoment(pages=pages, copies=last.copies, transient=0, kept=last.kept, lost=last.lost)


def _compress(walk: WeightWalk, before: WeightPages, gpu: bool) -> tuple[SaveMoment, SaveMoment]:
    """The highest moment and the last one."""
    limit = walk.constants.heap_block
    weights, copies, free, lost = before.copies, 0, 0, 0
    highest, beside = SaveMoment(pages=before, copies=0, transient=0, kept=0), weights
    for module in walk.model.compressed:
        copy = module.copy_bytes
        transient = 0 if gpu else module.transient_bytes - min(free, module.transient_bytes)
        free -= min(free, copy if copy < limit else 0)
        copies += copy
        if weights + copies + transient + free + lost > beside:  # a mixture has ten thousands of modules
            beside = weights + copies + transient + free + lost
            highest = _moment(before, weights, copies, transient, free, lost)
        if _is_own(module, walk):
            weights -= module.weight_bytes
            free += module.weight_bytes if module.weight_bytes < limit else 0
        if module.unit in walk.on_disk:  # offload/cache/disk.py writes the copy to its file, and lets go of it
            copies -= copy
            lost += copy if copy < limit and not gpu else 0  # measured: the next ones find no use for what is free
    last = _moment(before, weights, copies, 0, free, lost) if walk.model.compressed else highest
    return highest, last


def _moment(before: WeightPages, weights: int, copies: int, transient: int, free: int, lost: int) -> SaveMoment:
    pages = WeightPages(mapped=before.mapped, copies=weights, written=before.written)
    return SaveMoment(pages=pages, copies=copies, transient=transient, kept=free, lost=lost)


def _is_own(module: CompressedModule, walk: WeightWalk) -> bool:
    return not walk.is_mapped or (module.is_expert and walk.model.is_converted)


def _loaded_shard(walk: WeightWalk) -> int:
    """transformers modeling_utils.py `save_pretrained`: weights on disk are mapped again for the shard that is
    written."""
    replaced = sum(m.weight_bytes - m.copy_bytes for m in walk.model.compressed if m.unit in walk.on_disk)
    return min(walk.constants.shard, walk.offloaded - replaced)


def between_copies(model: HostModel, constants: HostConstants) -> int:
    """What malloc keeps once all copies are made: each was placed among temporaries that are gone."""
    small = [m for m in model.compressed if m.largest_block < constants.heap_block]
    packed = sum(m.transient_bytes for m in small if m.is_packed)
    others = sum(m.transient_bytes for m in small if not m.is_packed)
    return (packed * constants.packed_kept_percent + others * constants.copies_kept_percent) // 100
