"""One device's part of the ledger: what lies there, what happened in this step, and the device that was told of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from planner.compress.alike import KEPT, Alike, Shape, folded, is_balanced, shape_of
from planner.compress.devices import Action, CardUse, Device, Emptied, OnStream, PassedOn
from planner.compress.holdings import DeviceName
from planner.compress.tape import Part
from planner.timeline import Handle, Level, MemoryEvent


@dataclass(slots=True)
class Books:
    """What is live on one device, and what happened since the step began.

    Single events interest nobody: the level and the device follow them together, as soon as somebody asks.
    """

    name: DeviceName
    device: Device
    handles: Iterator[Handle]
    """New names, in ascending order."""
    holdings: dict[Handle, int] = field(default_factory=dict)
    """Bytes of all that is live."""
    level: Level = field(default_factory=Level)
    """As far as `followed`."""
    log: list[MemoryEvent] = field(default_factory=list)
    """The events of this step."""
    followed: int = 0
    """Number of these events that the level has followed."""
    peak_at: int = 0
    """Number of these events up to the step's highest moment."""
    gone: list[Handle] = field(default_factory=list)
    """Holdings that were given back in this step."""
    past: list[MemoryEvent] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    is_placed: bool = field(init=False)
    """The device places tensors, and is to see what happens."""
    ahead: list[Action] = field(default_factory=list)
    """What it has not done yet."""
    since: Handle = 0
    """Holdings from this number on had no tensor before all that."""
    tape: list[Part] = field(default_factory=list)
    """All that it has done, to be played on another one."""
    stream: int = 0
    """The CUDA stream that tensors are taken on."""

    def __post_init__(self) -> None:
        self.is_placed = self.device.places

    def move(self, handle: Handle, nbytes: int, tensors: int) -> None:
        """So many tensors of `nbytes` more, or less, for a holding."""
        if not nbytes:
            return
        event = (handle, nbytes, tensors)
        self.holdings[handle] += nbytes * tensors
        self.log.append(event)
        if self.is_placed:
            self.ahead.append(event)

    def pass_on(self, handle: Handle, heir: Handle, nbytes: int) -> None:
        """One tensor is counted in another holding from now on."""
        self.holdings[handle] -= nbytes
        self.holdings[heir] += nbytes
        self.log += ((handle, nbytes, -1), (heir, nbytes, 1))
        if self.is_placed:
            self.ahead.append(PassedOn(handle, heir, nbytes))

    def switch(self, stream: int) -> int:
        """Take tensors on this CUDA stream; returns the one before."""
        before, self.stream = self.stream, stream
        if self.is_placed and stream != before:
            self.ahead.append(OnStream(stream))
        return before

    def empty(self) -> None:
        """Give back what is cached and not held."""
        if self.is_placed:
            self.ahead.append(Emptied())

    # ------------------------------------------------------------------ equal blocks of events
    def last_block(self, marks: Sequence[int], since: Handle) -> Shape | None:
        """The shape of the events since the last of these places in the log, if those before were equal to them; None
        if not. Holdings from the number `since` on had no tensor before the first place."""
        events = self.log[marks[0] :]
        shape = shape_of(events, since)
        last, before = marks[-1] - marks[0], marks[-2] - marks[0]
        is_seen = not (self.is_placed and events) or self._is_seen(events)
        is_equal = shape[before:last] == shape[last:] and (not shape[last:] or is_balanced(shape[last:]))
        return shape[last:] if is_seen and is_equal else None

    def _is_seen(self, events: Sequence[MemoryEvent]) -> bool:
        """They are the last that the device is to do, and nothing else was asked of it meanwhile."""
        return self.ahead[-len(events) :] == events

    def again(self, block: Shape, times: int) -> None:
        """Let the device do the `last_block` so many times more. What the log says is live afterwards."""
        if not (self.is_placed and block and times):
            return
        before = self.log[-KEPT * len(block) :]
        run = Alike.of(block, times, before, self.handles)
        self.ahead.append(run)
        after = [*before, *run.blocks(max(0, times - KEPT), times)][-len(before) :]
        for (handle, nbytes, _), (other, *_) in zip(before, after, strict=True):
            if handle in self.holdings:
                self.ahead.append(PassedOn(other, handle, nbytes))

    # ------------------------------------------------------------------ following
    def follow(self) -> Level:
        """How much is held now, and the most that was in this step."""
        highest = self.level.follow(islice(self.log, self.followed, None))
        if highest:
            self.peak_at = self.followed + highest
        self.followed = len(self.log)
        return self.level

    def at_peak(self) -> dict[Handle, int]:
        """Bytes of what was live at the step's highest moment, and of some that was not (0)."""
        self.follow()
        holdings = dict(self.holdings)
        for handle, nbytes, tensors in reversed(self.log[self.peak_at :]):
            holdings[handle] = holdings.get(handle, 0) - nbytes * tensors
        return holdings

    def caught_up(self) -> Device:
        """The device, once it has done all that was done. Raises OutOfMemory."""
        if self.ahead:
            actions = folded(self.ahead, self.since)
            self.note(actions)
            self.ahead, self.since = [], next(self.handles)
            self.device.do(actions, helds=[])  # no step ends in it
        return self.device

    def note(self, part: Part) -> None:
        """Keep on the tape what the device does."""
        if self.is_placed:
            self.tape.append(part)

    def ordered(self, last: Sequence[Handle]) -> list[Handle]:
        """The holdings that hold anything, by birth, but `last` at the end."""
        named = [handle for handle in last if self.holdings.get(handle)]
        others = {handle for handle, nbytes in self.holdings.items() if nbytes}.difference(named)
        return [*sorted(others), *named]

    def close_step(self) -> CardUse | None:
        """The step ends on the device; what that held in it, if it is known."""
        if not self.is_placed:
            return None
        held = self.caught_up().close_step()
        self.note([None])
        return held

    def restart(self) -> None:
        """A new step begins with what there is now."""
        self.gone.clear()
        self.log.clear()
        self.followed = self.peak_at = 0
        self.level.restart()
