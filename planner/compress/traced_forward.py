"""The forward that a pipeline runs, as modifiers use it."""

from typing import Protocol

from planner.models.traces import CallValue
from planner.models.tuned import TunedBlock
from planner.timeline import Handle

Share = tuple[int, int]
"""The part of a whole batch that runs: (samples, batch size)."""


class TracedForward(Protocol):
    """What its implementation offers (forward.py)."""

    def retain(self, value: CallValue, holding: Handle) -> None:
        """In a hook: keep this very tensor of the call, counted in a growing holding on the computing device."""

    def crossing(self, value: CallValue) -> int | None:
        """In a hook: the crossing that this tensor is; None for one that no other segment sees."""

    def replace(self, value: CallValue, new: Handle) -> None:
        """In a hook: the call returns this tensor in the place of another."""

    def replay(self, module: str, share: Share = (1, 1)) -> tuple[Handle, ...]:
        """Run one module's forward again, on the caller's arguments; what it returns is the caller's."""

    def tuned(self, layer: str) -> TunedBlock | None:
        """How a modifier of this job trains the layer; None where it does not."""

    @property
    def left_out(self) -> str:
        """The category of traced events that are not this device's."""
