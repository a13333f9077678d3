"""Memory over time: a stream of events, and the one fold that finds its highest point.

An event says that a number of equal tensors join one holding, or leave it where the number is negative. It gives the
size of a single tensor even where it counts many (a thousand samples' hidden states). So every reader of the stream
(the books, an allocator that gives each tensor an address, a picture) knows the size of each tensor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from planner.units import in_blocks


class MemoryEvent(NamedTuple):
    """`tensors` of `bytes` each join the holding (negative: leave it, the oldest first)."""

    holding: int
    bytes: int
    tensors: int = 1


@dataclass(slots=True)
class Level:
    """How much is held now, and the most that was since `restart`, in bytes and in 512-byte blocks.

    The two peaks may lie at different moments. `at` counts the events up to the first highest moment in bytes.
    """

    live: int = 0
    live_blocks: int = 0
    peak: int = 0
    peak_blocks: int = 0
    events: int = 0
    at: int = 0

    def add(self, event: MemoryEvent) -> None:
        """Count one more event."""
        _, nbytes, tensors = event
        self.events += 1
        self.live += nbytes * tensors
        self.live_blocks += in_blocks(nbytes) * tensors
        if self.live > self.peak:
            self.peak, self.at = self.live, self.events
        if self.live_blocks > self.peak_blocks:
            self.peak_blocks = self.live_blocks

    def restart(self) -> None:
        """Begin a new step with what is held now."""
        self.peak, self.peak_blocks, self.events, self.at = self.live, self.live_blocks, 0, 0


@dataclass(slots=True)
class StreamTotals:
    """What a stream adds up to: its level, and who holds how many bytes at the end."""

    level: Level = field(default_factory=Level)
    holdings: dict[int, int] = field(default_factory=dict)


def fold(events: Iterable[MemoryEvent], before: Mapping[int, int] | None = None) -> StreamTotals:
    """The highest point of a stream that begins with the holdings `before`."""
    result = StreamTotals(Level(), dict(before or {}))
    result.level.live = sum(result.holdings.values())
    result.level.live_blocks = sum(map(in_blocks, result.holdings.values()))
    result.level.restart()
    for event in events:
        result.level.add(event)
        remaining = result.holdings.get(event.holding, 0) + event.bytes * event.tensors
        if remaining:
            result.holdings[event.holding] = remaining
        else:
            result.holdings.pop(event.holding, None)
    return result
