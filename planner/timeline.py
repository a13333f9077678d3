"""Memory over time: a stream of events, and the one fold that finds its highest point.

An event says that so many equal tensors of one holding are born, or die where their number is negative. Tensors are
single even where many are counted together (a thousand samples' hidden states): whoever reads the stream, the
books, an allocator that gives each tensor an address, a picture, sees each one's size.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from planner.units import BLOCK, in_blocks

Handle = int
"""The name of a holding: one tensor, or tensors that are counted together."""

MemoryEvent = tuple[Handle, int, int]
"""(holding, bytes of one tensor, number of tensors that join the holding; negative: that leave it, the oldest first).

A plain tuple: a job has hundreds of thousands, and Python's garbage collector walks every other kind of object.
"""


@dataclass(slots=True)
class Level:
    """How much is held now, and the most that was since `restart`, in bytes and in 512-byte blocks.

    The two peaks may lie at different moments.
    """

    live: int = 0
    live_blocks: int = 0
    peak: int = 0
    peak_blocks: int = 0

    def follow(self, events: Iterable[MemoryEvent]) -> int:
        """Bring the level to where these events leave it. Returns the number of events up to the highest moment;
        0 where no more is held at any than was since `restart`."""
        live, blocks, peak, peak_blocks, highest = self.live, self.live_blocks, self.peak, self.peak_blocks, 0
        for number, (_, nbytes, tensors) in enumerate(events, 1):
            live += nbytes * tensors
            blocks += -(-nbytes // BLOCK) * BLOCK * tensors
            if blocks > peak_blocks:
                peak_blocks = blocks
            if live > peak:
                peak, highest = live, number
        self.live, self.live_blocks, self.peak, self.peak_blocks = live, blocks, peak, peak_blocks
        return highest

    def restart(self) -> None:
        """A new step begins with what is held now."""
        self.peak, self.peak_blocks = self.live, self.live_blocks


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
    events = tuple(events)
    result.level.follow(events)
    for holding, nbytes, tensors in events:
        left = result.holdings.get(holding, 0) + nbytes * tensors
        if left:
            result.holdings[holding] = left
        else:
            result.holdings.pop(holding, None)
    return result
