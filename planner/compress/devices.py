"""The devices that the simulation takes memory from.

The books say whose bytes lie where; a device says how the hardware holds them. While the simulation runs, a device
gets every event in the order of the real run, and answers what the library asks of the hardware: how much is free.
`CountingDevice` only counts. `CachingDevice` places each tensor as PyTorch's caching allocator does. Neither pipelines
nor modifiers know which of the two it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from planner.compress.alike import Alike
from planner.cuda.allocator import Block, CachingAllocator
from planner.cuda.allocators import allocator
from planner.cuda.settings import DEFAULT, AllocatorSettings
from planner.timeline import Handle, MemoryEvent

Claims = tuple[int, int]
"""Bytes of segments, and how often some were given back because the driver had no more, ever."""

Layout = Any
"""Hashable; a device reads what it made itself, and nobody else does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardUse:
    """What a caching allocator held in one step, at most."""

    allocated: int
    """Blocks that tensors had, each rounded, with remainders too small to split off."""
    reserved: int
    """Segments taken from the driver and not given back."""
    retries: int
    """How often segments were given back in this step because the driver had no more."""
    asked: int = 0
    """How often the job asked what is free, and acted on it."""


@dataclass(frozen=True, slots=True)
class PassedOn:
    """The oldest tensor of `nbytes` of a holding belongs to another one from now on."""

    handle: Handle
    heir: Handle
    nbytes: int


STREAMS = 32
"""c10/cuda/CUDAStream.cpp kStreamsPerPool: streams of one priority that a process makes; then the first comes again."""


@dataclass(frozen=True, slots=True)
class OnStream:
    """Tensors are taken on this CUDA stream from now on: 0, the process's own, or one of PyTorch's pool."""

    stream: int

    def later(self, streams: int) -> int:
        """The stream where so many more were made before."""
        return self.stream and (self.stream - 1 + streams) % STREAMS + 1


@dataclass(frozen=True, slots=True)
class Question:
    """How many of `wanted` equal parts, each of `nbytes`, go into a share of what is free; one at least."""

    nbytes: int
    percent: int
    wanted: int
    answer: int
    """What the job was told, and acted on."""

    def answered(self, free: int) -> int:
        """The answer where so many bytes are free."""
        return min(self.wanted, max(1, free * self.percent // 100 // self.nbytes))

    def free_for(self, parts: int) -> int:
        """The fewest free bytes into whose share so many parts go."""
        return -(-100 * parts * self.nbytes // self.percent)


@dataclass(frozen=True, slots=True)
class Emptied:
    """torch.cuda.empty_cache: segments without a tensor go back to the driver."""


@dataclass(frozen=True, slots=True)
class Again:
    """What was done in a round of batches, so many times more.

    A holding that is taken anew in each round and freed in the one after has two tensors meanwhile: the older goes
    first, as ever.
    """

    round: "tuple[Action, ...]"
    times: int


class DiffersError(Exception):
    """A job that is done again would be told something else here, and act otherwise: it must be simulated anew."""


Action = MemoryEvent | Alike | Again | PassedOn | OnStream | Question | Emptied | None
"""What is done on a device, or asked of it; None: a step ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What was done on a device, to be done again with other holdings in the same parts."""

    actions: tuple[Action, ...]
    begin: tuple[Handle, ...]
    """The holdings that were live before, in an order that tells which part each one plays."""
    end: tuple[Handle, ...]
    """Those that were live after."""


class Device(Protocol):
    """One memory: it takes events, and says how much is free."""

    places: bool
    """True where every tensor gets a place: then each event matters, and in its order."""

    @property
    def claims(self) -> Claims:
        """What it has of the driver; equal before and after what needs nothing from there."""

    @property
    def held_now(self) -> tuple[int, int]:
        """Bytes of blocks that tensors have, and of segments; zeros for a device that only counts."""

    @property
    def held_most(self) -> tuple[int, int]:
        """The most of both since the step before."""

    def do(self, actions: Iterable[Action], helds: list[CardUse]) -> None:
        """Do this in its order; `helds` gets what each step held that ends meanwhile.

        Freed tensors are named by their size; of equal ones the oldest goes first. Raises OutOfMemory, and
        DiffersError where a question has another answer: what came before is done then.
        """

    def free_bytes(self, live: int) -> int:
        """What `torch.cuda.mem_get_info` would call free while tensors of `live` bytes are there."""

    def close_step(self) -> CardUse | None:
        """The most that was held since the step before; None for a device that only counts."""

    def layout(self, handles: Sequence[Handle]) -> Layout:
        """Equal where equal events would be met alike from here on. `handles` are all live holdings, in an order that
        says which of them play the same part in another layout."""

    def replay(self, script: Script, begin: Sequence[Handle], helds: list[CardUse], streams: int = 0) -> None:
        """`do` the script, beginning with the holdings `begin` in the parts of its own, which are live afterwards.

        `streams`: how many more CUDA streams were made by now.
        """

    def restore(self, layout: Layout, handles: Sequence[Handle]) -> None:
        """Make the device what it was in this layout, with these holdings in the place of those of then."""


class CountingDevice:
    """Counts requested bytes, as if only this job's tensors were there. `total` None: its size is not known."""

    places = False
    claims = held_now = held_most = 0, 0

    def __init__(self, total: int | None = None) -> None:
        self.total = total

    def do(self, actions: Iterable[Action], helds: list[CardUse]) -> None:
        """Nothing: the books count already."""

    def free_bytes(self, live: int) -> int:
        if self.total is None:
            raise ValueError("how large this memory is was never said")
        return max(0, self.total - live)

    def close_step(self) -> None:
        return None

    def layout(self, handles: Sequence[Handle]) -> None:
        """Nothing: a count depends on the live bytes alone, which the books know."""

    def replay(self, script: Script, begin: Sequence[Handle], helds: list[CardUse], streams: int = 0) -> None:
        """Nothing either."""

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
        self._stream = self._more_streams = 0
        self._blocks: dict[Handle, list[Block]] = {}
        """What each holding has, the oldest first."""
        self._retries = self._asked = self._most_reserved = 0

    @property
    def claims(self) -> Claims:
        return self.allocator.use.reserved, self.allocator.use.retries

    @property
    def held_now(self) -> tuple[int, int]:
        return self.allocator.use.allocated, self.allocator.use.reserved

    @property
    def held_most(self) -> tuple[int, int]:
        return self.allocator.use.allocated_peak, self.allocator.use.reserved_peak

    def do(self, actions: Iterable[Action], helds: list[CardUse]) -> None:
        blocks, malloc, free = self._blocks, self.allocator.malloc, self.allocator.free
        for action in actions:
            if type(action) is not tuple:
                self._do(action, helds)
                continue
            handle, nbytes, tensors = action
            if tensors == 1:
                block = malloc(nbytes, self._stream)
                if handle in blocks:
                    blocks[handle].append(block)
                else:
                    blocks[handle] = [block]
            elif tensors == -1:
                held = blocks[handle]
                if held[0][0] == nbytes and len(held) == 1:  # nearly always
                    del blocks[handle]
                    free(held[0])
                else:
                    free(self._popped(handle, nbytes))
            elif tensors > 0:
                blocks.setdefault(handle, []).extend(self.allocator.malloc_all(nbytes, tensors, self._stream))
            else:
                self.allocator.free_all(self._all_popped(handle, nbytes, -tensors))

    def _do(self, action: Action, helds: list[CardUse]) -> None:
        """What is no event."""
        if action is None:
            helds.append(self.close_step())
        elif isinstance(action, Alike):
            self._do_alike(action)
        elif isinstance(action, Again):
            for _ in range(action.times):
                self.do(action.round, helds)
        elif isinstance(action, PassedOn):
            block = self._popped(action.handle, action.nbytes)
            self._blocks.setdefault(action.heir, []).append(block)
        elif isinstance(action, OnStream):
            self._stream = action.later(self._more_streams)
        elif isinstance(action, Emptied):
            self.allocator.empty()
        elif isinstance(action, Question):
            self._asked += 1
            if action.answered(self.free_bytes(0)) != action.answer:
                raise DiffersError
            self._note_answer(action)

    def _note_answer(self, question: Question) -> None:
        """Cards with so much less or more that the answer would be another one go another way."""
        band, reserved = self.allocator.band, self.allocator.use.reserved
        if band is None:
            return
        if question.answer > 1:
            needed = reserved + question.free_for(question.answer)
            band.needs(needed)
            if not self.allocator.use.retries:
                band.tells_otherwise(max(self._most_reserved, self.allocator.use.reserved_peak), needed)
        if question.answer < question.wanted:
            band.lacks(reserved + question.free_for(question.answer + 1))

    def _do_alike(self, run: Alike) -> None:
        """Block by block, until one leaves its tensors where an earlier one did: then all lies as it lay after that
        one, for free memory is what lies between live blocks. Whole rounds from there on are passed over."""
        left_at: dict[tuple[Block, ...], int] = {}
        number = 0
        while number < len(run):
            segments = len(self.allocator.segments)
            self.do(run.blocks(number, number + 1), helds=[])
            number += 1
            if len(self.allocator.segments) != segments or self.allocator.ages or number == 1:
                left_at.clear()
                continue
            last = run.blocks(number - 2, number)
            left = tuple(self._blocks[handle][0] for handle, *_ in last if handle in self._blocks)
            length = number - left_at.setdefault(left, number)
            if length:
                number += (len(run) - number) // length * length
                left_at.clear()
                self._rename(last, run.blocks(number - 2, number))

    def _rename(self, block: Sequence[MemoryEvent], other: Sequence[MemoryEvent]) -> None:
        """What was taken in one block was taken in the other, equal one."""
        named = [(new, self._blocks.pop(old, None)) for (old, *_), (new, *_) in zip(block, other, strict=True)]
        self._blocks.update((handle, blocks) for handle, blocks in named if blocks is not None)

    def _popped(self, handle: Handle, nbytes: int) -> Block:
        """The oldest tensor of this size, which leaves the holding."""
        blocks = self._blocks[handle]
        for index, block in enumerate(blocks):  # nearly always the first one
            if block[0] == nbytes:
                del blocks[index]
                if not blocks:
                    del self._blocks[handle]
                return block
        raise ValueError(f"no tensor of {nbytes} bytes is held")

    def _all_popped(self, handle: Handle, nbytes: int, count: int) -> list[Block]:
        """So many of the oldest tensors of this size, which leave the holding."""
        blocks = self._blocks.get(handle, [])
        if len(blocks) != count or any(block[0] != nbytes for block in blocks):
            return self._picked(handle, nbytes, count)
        del self._blocks[handle]
        return blocks

    def _picked(self, handle: Handle, nbytes: int, count: int) -> list[Block]:
        """The same among tensors of other sizes, in one walk over them."""
        taken, left = list[Block](), list[Block]()
        for block in self._blocks.pop(handle, ()):
            (taken if block[0] == nbytes and len(taken) < count else left).append(block)
        if len(taken) < count:
            raise ValueError(f"no {count} tensors of {nbytes} bytes are held")
        if left:
            self._blocks[handle] = left
        return taken

    def free_bytes(self, live: int) -> int:
        return max(0, self.total - self.context - self.allocator.use.reserved)

    def close_step(self) -> CardUse:
        use = self.allocator.use
        held = CardUse(
            allocated=use.allocated_peak,
            reserved=use.reserved_peak,
            retries=use.retries - self._retries,
            asked=self._asked,
        )
        self._retries, self._asked = use.retries, 0
        self._most_reserved = max(self._most_reserved, use.reserved_peak)
        use.restart()
        return held

    def layout(self, handles: Sequence[Handle]) -> Layout:
        return self.allocator.layout(self._blocks.get(handle, ()) for handle in handles)  # one may be drained by now

    def replay(self, script: Script, begin: Sequence[Handle], helds: list[CardUse], streams: int = 0) -> None:
        self._blocks = {old: self._blocks[new] for old, new in zip(script.begin, begin, strict=True)}
        self._more_streams = streams
        try:
            self.do(script.actions, helds)
        finally:
            self._more_streams = 0

    def restore(self, layout: Layout, handles: Sequence[Handle]) -> None:
        groups = zip(handles, self.allocator.rebuild(layout), strict=True)
        self._blocks = {handle: blocks for handle, blocks in groups if blocks}
        self._retries, self._asked = self.allocator.use.retries, 0  # some may be of a script that was broken off


def card(total: int, context: int, settings: AllocatorSettings = DEFAULT, *, is_strict: bool = False) -> CachingDevice:
    """A card of `total` bytes as CUDA sees them. Only a strict one runs out of memory: on any other one there is room
    for all, and what is free is answered as if there were not."""
    limit = total if is_strict else None
    return CachingDevice(allocator(limit, context, settings), total, context)
