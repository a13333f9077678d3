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
    """Weights that were freed and are malloc's."""

    @property
    def own(self) -> int:
        """What the kernel cannot drop."""
        return self.pages.own + self.copies + self.transient + self.kept


def save_moments(walk: WeightWalk, before: WeightPages, *, repacks: bool) -> tuple[SaveMoment, ...]:
    """The highest moment of compressing, and that of writing. `before`: the pages when save begins."""
    model, limit = walk.model, walk.constants.heap_block
    # linearize.py repack_moe keeps every Linear expert in a list until it returns, as linearize_moe keeps the fused
    packed = [SaveMoment(pages=before, copies=0, transient=model.experts_bytes, kept=0)] if repacks else []
    highest, last = _compress(model.compressed, walk, before, limit)
    writing = walk.after(everything=True)
    pages = WeightPages(
        mapped=max(writing.mapped, last.pages.mapped) + _loaded_shard(walk),
        copies=last.pages.copies,
        written=max(writing.written, last.pages.written),
    )
    return *packed, highest, SaveMoment(pages=pages, copies=last.copies, transient=0, kept=last.kept)


def _compress(
    modules: tuple[CompressedModule, ...], walk: WeightWalk, before: WeightPages, limit: int
) -> tuple[SaveMoment, SaveMoment]:
    """The highest moment and the last one."""
    weights, copies, free = before.copies, 0, 0
    highest = last = SaveMoment(pages=before, copies=0, transient=0, kept=0)
    for module in modules:
        copies += module.copy_bytes
        free -= min(free, module.copy_bytes if module.copy_bytes < limit else 0)
        transient = module.transient_bytes - min(free, module.transient_bytes)
        pages = WeightPages(mapped=before.mapped, copies=weights, written=before.written)
        moment = SaveMoment(pages=pages, copies=copies, transient=transient, kept=free)
        highest = max(highest, moment, key=lambda each: each.own)
        if _is_own(module, walk):
            weights -= module.weight_bytes
            free += module.weight_bytes if module.weight_bytes < limit else 0
        pages = WeightPages(mapped=before.mapped, copies=weights, written=before.written)
        last = SaveMoment(pages=pages, copies=copies, transient=0, kept=free)
    return highest, last


def _is_own(module: CompressedModule, walk: WeightWalk) -> bool:
    return not walk.is_mapped or (module.is_expert and walk.model.is_converted)


def _loaded_shard(walk: WeightWalk) -> int:
    """transformers modeling_utils.py `save_pretrained`: weights on disk are loaded for the shard that is written."""
    return min(walk.constants.shard, walk.offloaded)


def between_copies(model: HostModel, constants: HostConstants) -> int:
    """What malloc keeps between copies: each was placed among temporaries that are gone."""
    block = constants.heap_block
    most = max((m.transient_bytes for m in model.compressed if m.largest_block < block), default=0)
    return most * constants.copies_kept_percent // 100
