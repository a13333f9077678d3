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

    def add(self, nbytes: int, tensors: int) -> bool:
        """So many tensors more of this size; true where more is held then than ever since `restart`."""
        live = self.live = self.live + nbytes * tensors
        blocks = self.live_blocks = self.live_blocks + -(-nbytes // BLOCK) * BLOCK * tensors
        if blocks > self.peak_blocks:
            self.peak_blocks = blocks
        if live > self.peak:
            self.peak = live
            return True
        return False

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
    for event in events:
        holding, nbytes, tensors = event
        result.level.add(nbytes, tensors)
        left = result.holdings.get(holding, 0) + nbytes * tensors
        if left:
            result.holdings[holding] = left
        else:
            result.holdings.pop(holding, None)
    return result
