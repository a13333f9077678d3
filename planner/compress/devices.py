"""The devices that the simulation takes memory from.

The books say whose bytes lie where; a device says how the hardware holds them. While the simulation runs, a device
gets every event in the order of the real run, and answers what the library asks of the hardware: how much is free.
`CountingDevice` only counts. A device that places each tensor as a caching allocator does can stand in its place
(`Ledger(gpu=...)`); neither pipelines nor modifiers know which of the two it is.
"""

from collections.abc import Hashable
from typing import Protocol

from planner.timeline import MemoryEvent


class Device(Protocol):
    """One memory: it takes events, and says how much is free."""

    wants_events: bool
    """False for a device that needs to know no more than how much is live."""

    def apply(self, event: MemoryEvent) -> None:
        """Tensors are taken or freed. Freed tensors are named by their size; of equal ones the oldest goes first."""

    def free_bytes(self, live: int) -> int:
        """What `torch.cuda.mem_get_info` would call free while tensors of `live` bytes are there."""

    def state(self) -> Hashable:
        """A device in an equal state takes equal events the same way, so that they need not be walked again."""


class CountingDevice:
    """Counts requested bytes, as if only this job's tensors were there. `total` None: its size is not known."""

    wants_events = False

    def __init__(self, total: int | None = None) -> None:
        self.total = total

    def apply(self, event: MemoryEvent) -> None:
        """The books count already."""

    def free_bytes(self, live: int) -> int:
        if self.total is None:
            raise ValueError("how large this memory is was never said")
        return max(0, self.total - live)

    def state(self) -> Hashable:
        """None: a count depends on the live bytes alone, which the books know."""
        return None
