"""Blocks of work that are equal, found in a stream of events.

256 experts that read one batch take and free the same tensors, one after the other. A device that did a few of these
blocks knows the others: as soon as one leaves everything where an earlier one did, they go round the same places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from planner.timeline import Handle, MemoryEvent

T = TypeVar("T")

LEAST_EVENTS = 1_000
"""Shorter streams are not looked through."""
LEAST_BLOCKS = 8
"""Fewer equal ones are left as they are."""

Shape = list[int | None]
"""What each event is, whoever holds the tensor: its bytes if it is taken; how far back it was taken (negative) if it is
freed; None for all else, and for tensors that are older than the stream."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Blocks of equal events, one after the other.

    Each frees as many tensors as it takes: its own, and what one of the two blocks before it left, as a loop's names
    hold the last round's tensors until they are bound anew.
    """

    events: tuple[MemoryEvent, ...]
    """Of all blocks."""
    length: int
    """Number of events in each."""

    def __len__(self) -> int:
        return len(self.events) // self.length

    def blocks(self, begin: int, end: int) -> tuple[MemoryEvent, ...]:
        """The events of some."""
        return self.events[begin * self.length : end * self.length]


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
        result.append(Alike(tuple(actions[start:end]), length))  # type: ignore[arg-type]  # `runs` repeats no None: events alone
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
    return None not in block and 2 * len(frees) == len(block) and min(frees) >= -2 * len(block)
