"""The devices that the simulation takes memory from.

The books say whose bytes lie where; a device says how the hardware holds them. While the simulation runs, a device
gets every event in the order of the real run, and answers what the library asks of the hardware: how much is free.
`CountingDevice` only counts. `CachingDevice` places each tensor as PyTorch's caching allocator does. Neither pipelines
nor modifiers know which of the two it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from planner.cuda.allocator import Block, CachingAllocator
from planner.cuda.allocators import allocator
from planner.cuda.settings import DEFAULT, AllocatorSettings
from planner.timeline import Handle, MemoryEvent

Layout = Any
"""Hashable; a device reads what it made itself, and nobody else does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a caching allocator held in one step, at most."""

    allocated: int
    """Blocks that tensors had, each rounded, with remainders too small to split off."""
    reserved: int
    """Segments taken from the driver and not given back."""
    retries: int
    """How often segments were given back in this step because the driver had no more."""


class Device(Protocol):
    """One memory: it takes events, and says how much is free."""

    places: bool
    """True where every tensor gets a place: then each event matters, and in its order."""
    stream: int
    """The CUDA stream that tensors are taken on."""

    def apply(self, event: MemoryEvent) -> None:
        """Tensors are taken or freed. Freed tensors are named by their size; of equal ones the oldest goes first."""

    def free_bytes(self, live: int) -> int:
        """What `torch.cuda.mem_get_info` would call free while tensors of `live` bytes are there."""

    def close_step(self) -> Held | None:
        """The most that was held since the step before; None for a device that only counts."""

    def layout(self, handles: Sequence[Handle]) -> Layout:
        """Equal where equal events would be met alike from here on. `handles` are all live holdings, in an order that
        says which of them play the same part in another layout."""

    def restore(self, layout: Layout, handles: Sequence[Handle]) -> None:
        """Make the device what it was in this layout, with these holdings in the place of those of then."""


class CountingDevice:
    """Counts requested bytes, as if only this job's tensors were there. `total` None: its size is not known."""

    places = False

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.stream = 0

    def apply(self, event: MemoryEvent) -> None:
        """The books count already."""

    def free_bytes(self, live: int) -> int:
        if self.total is None:
            raise ValueError("how large this memory is was never said")
        return max(0, self.total - live)

    def close_step(self) -> None:
        return None

    def layout(self, handles: Sequence[Handle]) -> None:
        """Nothing: a count depends on the live bytes alone, which the books know."""

    def restore(self, layout: Layout, handles: Sequence[Handle]) -> None:
        """Nothing lies anywhere."""


class CachingDevice:
    """A card whose memory PyTorch's caching allocator manages.

    `total` and `context`: bytes of the card as CUDA sees it, and what the CUDA context takes of them. They answer how
    much is free; whether the allocator may exceed them is the allocator's own matter.
    """

    places = True

    def __init__(self, allocator: CachingAllocator, total: int, context: int) -> None:
        self.allocator, self.total, self.context = allocator, total, context
        self.stream = 0
        self._malloc, self._free = allocator.malloc, allocator.free
        self._blocks: dict[Handle, list[Block]] = {}
        self._retries = 0

    def apply(self, event: MemoryEvent) -> None:
        handle, nbytes, tensors = event
        if tensors > 0:
            born = [self._malloc(nbytes, self.stream) for _ in range(tensors)]
            blocks = self._blocks.setdefault(handle, born)
            if blocks is not born:
                blocks += born
            return
        blocks = self._blocks[handle]
        for _ in range(-tensors):
            # nearly always the first one
            self._free(blocks.pop(0) if blocks and blocks[0][0] == nbytes else _popped(blocks, nbytes))
        if not blocks:
            del self._blocks[handle]

    def free_bytes(self, live: int) -> int:
        return max(0, self.total - self.context - self.allocator.use.reserved)

    def close_step(self) -> Held:
        use = self.allocator.use
        held = Held(allocated=use.allocated_peak, reserved=use.reserved_peak, retries=use.retries - self._retries)
        self._retries = use.retries
        use.restart()
        return held

    def layout(self, handles: Sequence[Handle]) -> Layout:
        return self.allocator.layout(map(self._blocks.__getitem__, handles))

    def restore(self, layout: Layout, handles: Sequence[Handle]) -> None:
        self._blocks = dict(zip(handles, self.allocator.rebuild(layout), strict=True))


def card(total: int, context: int, settings: AllocatorSettings = DEFAULT, *, is_strict: bool = False) -> CachingDevice:
    """A card of `total` bytes as CUDA sees them. Only a strict one runs out of memory: on any other one there is room
    for all, and what is free is answered as if there were not."""
    limit = total if is_strict else None
    return CachingDevice(allocator(limit, context, settings), total, context)


def _popped(blocks: list[Block], nbytes: int) -> Block:
    """Take the oldest tensor of this size from the list."""
    for index, block in enumerate(blocks):
        if block[0] == nbytes:
            return blocks.pop(index)
    raise ValueError(f"no tensor of {nbytes} bytes is held")
