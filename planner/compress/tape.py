"""A job that was simulated, done again on another card.

What a job asks of a card does not depend on the card, but for what it was told was free. So the tape of one simulation,
every tensor taken and freed in order, tells what the same job does on a smaller one, without walking it again: where
the allocator gives segments back, and where it runs out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from planner.compress.devices import Action, Again, CachingDevice, CardUse, Device, DiffersError, Layout, Script
from planner.cuda.allocator import OutOfMemory
from planner.timeline import Handle

LONG, SOON = 20_000, 3
"""A script of more tensors than this, as a layer's is whose inputs and outputs are kept for all samples, is taken as
settled after so many in a row."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A script was done again, with other holdings in the parts of its own."""

    script: Script
    begin: tuple[Handle, ...]
    end: tuple[Handle, ...]
    streams: int = 0
    """How many more CUDA streams were made by then."""


Part = list[Action] | Repeated
"""Of a tape."""


def actions_of(part: Part) -> list[Action]:
    """What a part that repeats no script has."""
    assert not isinstance(part, Repeated), "what is walked repeats no script"
    return part


Outcome = tuple[Layout, tuple[CardUse, ...]]
"""How a script leaves its device, and what each step held."""


@dataclass(slots=True)
class Outcomes:
    """How a script comes out on one device, by the layout in which it begins, and the CUDA stream: it is done once for
    each."""

    script: Script
    seen: dict[tuple[Layout, int], Outcome] = field(default_factory=dict)
    last: Outcome | None = None
    quiet: int = 0
    """How often in a row it needed nothing from the driver."""
    is_long: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_long = _tensors(self.script.actions) > LONG

    def of(self, device: Device, begin: Sequence[Handle], settled: int | None, streams: int = 0) -> Outcome:
        """How it comes out with the holdings `begin` in the parts of its own; `settled` as in `Shortcuts`, `streams` as
        in `Device.replay`.

        The device is to be restored to the layout afterwards. Raises DiffersError, the device as it was, where a
        question has another answer; OutOfMemory half-way.
        """
        before = device.layout(begin)
        known = self.seen.get((before, streams))
        if settled is not None and self.is_long:
            settled = min(settled, SOON)
        if known is None and settled is not None and self.quiet >= settled:
            known = self.last
        if known is not None:
            return known
        claims, helds = device.claims, list[CardUse]()
        try:
            device.replay(self.script, begin, helds, streams)
        except DiffersError:
            device.restore(before, begin)
            raise
        except OutOfMemory as error:
            error.steps = len(helds)
            raise
        self.quiet = self.quiet + 1 if device.claims == claims else 0
        self.last = self.seen[before, streams] = device.layout(self.script.end), tuple(helds)
        return self.last


def _tensors(actions: Sequence[Action]) -> int:
    """How often one is taken or freed, as far as single events say."""
    events = sum(abs(action[2]) for action in actions if type(action) is tuple)
    return events + sum(_tensors(action.round) * action.times for action in actions if isinstance(action, Again))


@dataclass(slots=True)
class Played:
    """What came of a job on another card."""

    helds: list[CardUse] = field(default_factory=list)
    """What each step held, up to where it ran out."""
    out_of_memory: OutOfMemory | None = None
    out_at: int | None = None
    """Number of the step in which it ran out."""


def play(tape: Iterable[Part], device: CachingDevice, settled: int | None = None) -> Played:
    """Do a whole job again; `settled` as in `Shortcuts`. Raises DiffersError where this card says something else."""
    played, outcomes = Played(), dict[int, Outcomes]()
    try:
        for part in tape:
            if isinstance(part, Repeated):
                if id(part.script) not in outcomes:
                    outcomes[id(part.script)] = Outcomes(part.script)
                after, helds = outcomes[id(part.script)].of(device, part.begin, settled, part.streams)
                device.restore(after, part.end)
                played.helds += helds
            else:
                device.do(part, played.helds)
    except OutOfMemory as error:
        played.out_of_memory, played.out_at = error, len(played.helds) + error.steps
    return played
