"""Which allocator PYTORCH_ALLOC_CONF asks for."""

from dataclasses import replace

from planner.cuda.allocator import CachingAllocator
from planner.cuda.expandable import ExpandableAllocator
from planner.cuda.settings import DEFAULT, AllocatorSettings
from planner.cuda.tuned import TunedAllocator


def allocator(total: int | None = None, context: int = 0, settings: AllocatorSettings = DEFAULT) -> CachingAllocator:
    """The fastest one that follows these settings; `total` and `context` as for CachingAllocator."""
    if settings.expandable_segments:
        return ExpandableAllocator(total, context, settings)
    # `large_segment_size` is the one setting that the plain allocator follows too
    is_plain = replace(settings, large_segment_size=DEFAULT.large_segment_size) == DEFAULT
    return (CachingAllocator if is_plain else TunedAllocator)(total, context, settings)
