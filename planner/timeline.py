"""Memory over time: a stream of events, and the one fold that finds its highest point.

An event says that so many equal tensors of one holding are born, or die where their number is negative. Tensors are
single even where many are counted together (a thousand samples' hidden states): whoever reads the stream, the
books, an allocator that gives each tensor an address, a picture, sees each one's size.
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
        """One more event."""
        _, nbytes, tensors = event
        self.events += 1
        self.live += nbytes * tensors
        self.live_blocks += in_blocks(nbytes) * tensors
        if self.live > self.peak:
            self.peak, self.at = self.live, self.events
        if self.live_blocks > self.peak_blocks:
            self.peak_blocks = self.live_blocks

    def restart(self) -> None:
        """A new step begins with what is held now."""
        self.peak, self.peak_blocks, self.events, self.at = self.live, self.live_blocks, 0, 0


@dataclass(slots=True)
class StreamTotals:
    """What a stream comes to: its level, and who holds how much at the end."""

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
        left = result.holdings.get(event.holding, 0) + event.bytes * event.tensors
        if left:
            result.holdings[event.holding] = left
        else:
            result.holdings.pop(event.holding, None)
    return result
