"""A job that was simulated, done again on another card.

What a job asks of a card does not depend on the card, but for what it was told was free. So the tape of one simulation,
every tensor taken and freed in order, tells what the same job does on a smaller one, without walking it again: where
the allocator gives segments back, and where it runs out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from planner.compress.devices import Action, CachingDevice, CardUse, Layout, Script
from planner.cuda.allocator import OutOfMemory
from planner.timeline import Handle


@dataclass(frozen=True, slots=True)
class Repeated:
    """A script was done again, with other holdings in the parts of its own."""

    script: Script
    begin: tuple[Handle, ...]
    end: tuple[Handle, ...]


@dataclass(slots=True)
class Played:
    """What came of it."""

    helds: list[CardUse] = field(default_factory=list)
    """What each step held, up to where it ran out."""
    out_of_memory: OutOfMemory | None = None
    out_at: int | None = None
    """Number of the step in which it ran out."""

    @property
    def retries(self) -> int:
        """How often segments were given back because the driver had no more."""
        return sum(held.retries for held in self.helds)


@dataclass(slots=True)
class _Seen:
    """How a script came out, by the layout that it began in."""

    outcomes: dict[Layout, tuple[Layout, tuple[CardUse, ...]]] = field(default_factory=dict)
    last: tuple[Layout, tuple[CardUse, ...]] | None = None
    quiet: int = 0


def play(tape: Iterable[Action | Repeated], device: CachingDevice, settled: int | None = None) -> Played:
    """Do a whole job again; `settled` as in `Shortcuts`. Raises DiffersError where this card says something else."""
    played, seen = Played(), dict[int, _Seen]()
    try:
        for action in tape:
            if isinstance(action, Repeated):
                played.helds += _repeat(action, device, seen.setdefault(id(action.script), _Seen()), settled)
            elif (held := device.act(action)) is not None:
                played.helds.append(held)
    except OutOfMemory as error:
        played.out_of_memory, played.out_at = error, len(played.helds) + error.steps
    return played


def _repeat(again: Repeated, device: CachingDevice, seen: _Seen, settled: int | None) -> tuple[CardUse, ...]:
    before = device.layout(again.begin)
    outcome = seen.outcomes.get(before)
    if outcome is None and settled is not None and seen.quiet >= settled:
        outcome = seen.last
    if outcome is None:
        reserved = device.reserved
        helds = device.replay(again.script, again.begin, again.end)
        is_quiet = device.reserved == reserved and not any(held.retries for held in helds)
        seen.quiet = seen.quiet + 1 if is_quiet else 0
        seen.last = seen.outcomes[before] = device.layout(again.end), helds
        return helds
    after, helds = outcome
    device.restore(after, again.end)
    return helds
