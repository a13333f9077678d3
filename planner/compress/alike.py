"""Blocks of work that are equal, found in a stream of events.

256 experts that read one batch take and free the same tensors, one after the other. A device that did a few of these
blocks knows the others: as soon as one leaves everything where an earlier one did, they go round the same places.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from planner.timeline import Handle, MemoryEvent

T = TypeVar("T")

LEAST_EVENTS = 1_000
"""Shorter streams are not looked through."""
KEPT = 2
"""A block frees nothing that is older than so many blocks."""
LEAST_BLOCKS = 8
"""Fewer equal ones are left as they are."""

Shape = list[int | None]
"""What each event is, whoever holds the tensor: its bytes if it is taken; how far back it was taken (negative) if it is
freed; None for all else, and for tensors that are older than the stream."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Blocks of equal events, one after the other.

    Each frees as many tensors as it takes: its own, and what one of the two blocks before it left, as a loop's names
    hold the last round's tensors until they are bound anew. So nobody else names what is taken before the last two
    blocks: a mixture's searches have millions of such events, and here they are no more than a number.
    """

    block: tuple[MemoryEvent, ...]
    """The events of each. A holding's number says how many places before the block begins (negative: behind) its tensor
    is taken."""
    count: int
    older: Mapping[int, tuple[Handle, int]]
    """Holding and bytes of each tensor from before it that the first two blocks free, by the place of that event."""
    last: Mapping[int, Handle]
    """Holdings of what the last two blocks take, by the same."""

    @classmethod
    def of(cls, shape: Shape, count: int, before: Sequence[MemoryEvent], names: Iterator[Handle]) -> "Alike":
        """So many blocks, behind the events `before`; `names`, in order, are of what the last two blocks take."""
        parts = [part for part in shape if part is not None]
        length, older, block = len(parts), dict[int, tuple[Handle, int]](), list[MemoryEvent]()
        for here, part in enumerate(parts):
            taken = here + min(part, 0)
            block.append((-taken, part, 1) if part > 0 else (-taken, parts[taken % length], -1))
        for here, (ago, _, _) in enumerate(block * min(count, KEPT)):
            place = here - here % length - ago
            if place < 0:
                handle, nbytes, _ = before[place]
                older[here] = handle, nbytes
        ends = range(max(0, count - KEPT) * length, count * length)
        return cls(tuple(block), count, older, {here: next(names) for here in ends if block[here % length][2] > 0})

    def __len__(self) -> int:
        return self.count

    def blocks(self, begin: int, end: int) -> list[MemoryEvent]:
        """The events of some. Names that nobody uses outside are negative: that of a place is -1 less the place."""
        length, events = len(self.block), list[MemoryEvent]()
        for first in range(begin * length, end * length, length):
            events += [(ago - first - 1, nbytes, tensors) for ago, nbytes, tensors in self.block]
        if begin >= KEPT and end <= self.count - KEPT:
            return events
        return [self._named(here, event) for here, event in enumerate(events, begin * length)]

    def _named(self, here: int, event: MemoryEvent) -> MemoryEvent:
        """The event in this place with the names that others use."""
        name, nbytes, tensors = event
        if here in self.older:
            return *self.older[here], tensors
        return self.last.get(-1 - name, name), nbytes, tensors


def folded(actions: Sequence[T | MemoryEvent], since: Handle) -> list[T | MemoryEvent | Alike]:
    """The same stream, with blocks of events that repeat each other as one `Alike`.

    Holdings from the number `since` on had no tensor before.
    """
    if len(actions) < LEAST_EVENTS:
        return list(actions)
    result: list[T | MemoryEvent | Alike] = []
    done = 0
    shape = shape_of(actions, since)
    for start, end, length in runs(shape):
        if not is_balanced(shape[end - length : end]):
            continue
        result += actions[done:start]
        kept = KEPT * length
        events = cast(Sequence[MemoryEvent], actions[max(0, start - kept) : end])  # `runs` repeats no None
        names = (handle for handle, _, tensors in events[-kept:] if tensors > 0)
        before = events[: min(start, kept)]
        result.append(Alike.of(shape[end - length : end], (end - start) // length, before, names))
        done = end
    result += actions[done:]
    return result


def shape_of(actions: Sequence[T | MemoryEvent], since: Handle) -> Shape:
    """The shape of a stream; holdings from the number `since` on had no tensor before."""
    shape: Shape = []
    births: dict[Handle, int] = {}
    for here, action in enumerate(actions):
        part = None
        if type(action) is tuple:
            handle, nbytes, tensors = action
            if tensors == -1 and handle in births:
                part = births.pop(handle) - here
            elif tensors == 1 and handle >= since and births.setdefault(handle, here) == here:
                part = nbytes
            else:  # a holding of several tensors: which one is freed is not told by the event before
                births.pop(handle, None)
        shape.append(part)
    return shape


def runs(shape: Shape) -> Iterator[tuple[int, int, int]]:
    """(begin, end, length of a block) of equal blocks, one run after the other."""
    seen: dict[object, int] = {}
    """Where each pair of parts was the last time."""
    before, done, length, matched = None, 0, 0, 0
    for here, part in enumerate([*shape, None]):
        if part is not None and length and part == shape[here - length]:
            matched += 1
        else:
            begin = max(done, here - matched - length)
            count = (here - begin) // length if length else 0
            if count >= LEAST_BLOCKS:
                done = begin + count * length
                yield begin, done, length
            length, matched = here - seen.get((before, part), here), 0
        seen[before, part] = here
        before = part


def is_balanced(block: Shape) -> bool:
    """It frees as many tensors as it takes, none of them older than two blocks."""
    frees = [part for part in block if part is not None and part < 0]
    return None not in block and 2 * len(frees) == len(block) and min(frees) >= -KEPT * len(block)
