"""A simulation that is watched: every step's events are shown to a watcher while they are known, and then forgotten.

Pictures are made so. The books are those of any other simulation, with a clock: one tick for every event, whichever
device has it. What the watcher makes of a step hangs on the step's peak, and goes with it where an equal subgraph is
copied, with the names and the bytes that differ there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from planner.compress.alike import Shape
from planner.compress.books import Books
from planner.compress.holdings import About, DeviceName
from planner.timeline import Handle, MemoryEvent


class OnCard(NamedTuple):
    """What the caching allocator holds, in bytes."""

    allocated: int
    reserved: int


NOTHING = OnCard(0, 0)


class Form(NamedTuple):
    """How a tensor is shaped."""

    dims: tuple[int, ...]
    dtype: str


class Milestone(NamedTuple):
    """Something begins at this tick of the step."""

    tick: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLog:
    """One device in one step, event by event."""

    device: DeviceName
    modifier: str | None
    """Whose step it is, several joined by +."""
    opening: Mapping[Handle, int]
    """Bytes of what was live before."""
    events: Sequence[MemoryEvent]
    ticks: Sequence[int]
    """When each of them was, from 1 on; several events of one tick are one moment."""
    on_card: Sequence[OnCard]
    """What the allocator held before the first of them, and at most around each; only nothing where none places."""
    length: int
    """Ticks of the step."""
    milestones: Sequence[Milestone]
    about: Callable[[Handle], About]
    """Whose a holding is; it can be asked while the step is shown, as can"""
    form: Callable[[Handle], Form | None]
    """how a tensor is shaped, where that is known."""


Watcher = Callable[[StepLog], Any]
"""Makes of a step what is to be kept of it."""


@dataclass(slots=True)
class Watch:
    """Who watches a simulation, and what is noted for him meanwhile."""

    watcher: Watcher
    now: int = 0
    """Ticks of the running step."""
    milestones: list[Milestone] = field(default_factory=list)
    forms: dict[Handle, Form] = field(default_factory=dict)
    """Of tensors that are live, or were in this step."""

    def milestone(self, text: str) -> None:
        """Something begins now."""
        self.milestones.append(Milestone(self.now, text))

    def restart(self) -> None:
        """The next step begins."""
        self.now = 0
        self.milestones = []


@dataclass(slots=True)
class WatchedBooks(Books):
    """Books that note when each event was, and whose device does it at once, so that what it holds is known then."""

    watch: Watch = field(default_factory=lambda: Watch(lambda _log: None))
    ticks: list[int] = field(default_factory=list)
    on_card: list[OnCard] = field(default_factory=list)
    highest: OnCard = NOTHING
    """The most that the device held in this step, as far as it was looked at."""

    def move(self, handle: Handle, nbytes: int, tensors: int) -> None:
        if nbytes:
            self._open()
            Books.move(self, handle, nbytes, tensors)
            self._see(1)

    def pass_on(self, handle: Handle, heir: Handle, nbytes: int) -> None:
        self._open()
        Books.pass_on(self, handle, heir, nbytes)
        self._see(2)

    def again(self, block: Shape, times: int) -> None:
        Books.again(self, block, times)
        if self.is_placed and block:
            self.on_card[-1] = OnCard(*map(max, self.on_card[-1], self._held()))

    def restart(self) -> None:
        for handle in self.gone:
            self.watch.forms.pop(handle, None)
        Books.restart(self)
        self.ticks.clear()
        self.on_card.clear()
        self.highest = NOTHING

    def shown(self, about: Callable[[Handle], About], modifier: str | None) -> StepLog:
        """The step that ends, before it is forgotten."""
        opening = dict(self.holdings)
        for handle, nbytes, tensors in self.log:
            opening[handle] = opening.get(handle, 0) - nbytes * tensors
        return StepLog(
            device=self.name,
            modifier=modifier,
            opening={handle: nbytes for handle, nbytes in opening.items() if nbytes},
            events=tuple(self.log),
            ticks=tuple(self.ticks),
            on_card=tuple(self.on_card) or (self._now(),),
            length=self.watch.now,
            milestones=tuple(self.watch.milestones),
            about=about,
            form=self.watch.forms.get,
        )

    def _is_seen(self, events: Sequence[MemoryEvent]) -> bool:
        return True  # the device did them as they came

    def _open(self) -> None:
        """What the device holds before the step's first event."""
        if self.is_placed and not self.on_card:
            self.on_card.append(self._now())

    def _see(self, events: int) -> None:
        self.watch.now += 1
        self.ticks += [self.watch.now] * events
        if self.is_placed:
            self.on_card += [self._held()] * events

    def _now(self) -> OnCard:
        device = self.caught_up()
        return OnCard(*device.held_now) if self.is_placed else NOTHING

    def _held(self) -> OnCard:
        """What the device holds now, or held since it was last asked, where that was the most of the step."""
        device = self.caught_up()
        now, most, before = device.held_now, device.held_most, self.highest
        if most == before:  # nearly always
            return OnCard(*now)
        self.highest = OnCard(*most)
        return OnCard(*(m if m > b else n for n, m, b in zip(now, most, before, strict=True)))
