"""What the simulation asks for memory.

Books say whose bytes are where; a device says how a piece of hardware takes them. It sits in the stream of events
while the simulation runs, sees every tensor be born and die in the order of the real run, and answers what the
library asks of the hardware: how much is free. `CountingDevice` counts; one that places each tensor as a caching
allocator does takes the same seat (`Ledger(gpu=...)`), and neither pipelines nor modifiers know which it is.
"""

from collections.abc import Hashable
from typing import Protocol

from planner.timeline import MemoryEvent


class Device(Protocol):
    """One memory."""

    wants_events: bool
    """False for a device that needs to know no more than how much is live."""

    def apply(self, event: MemoryEvent) -> None:
        """Tensors are born or die. Deaths name the size of what dies; of equal ones the oldest goes first."""

    def free_bytes(self, live: int) -> int:
        """What `torch.cuda.mem_get_info` would call free while tensors of `live` bytes are there."""

    def state(self) -> Hashable:
        """Equal states take equal events alike: what was walked once need not be walked again."""


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
        """Nothing beside what the books know: whose bytes are live."""
        return None
