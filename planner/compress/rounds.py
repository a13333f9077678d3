"""Rounds of batches that a device does without the books.

Where tensors have places, batches are done until they need nothing from the driver, though the books know long before
what each of them does. So as soon as two rounds did the same, the device is told to do that again, event by event, and
nobody walks it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from planner.compress.devices import Action, Again, Device, Emptied, OnStream, PassedOn
from planner.timeline import Handle

Batch = Sequence[Action]
"""What the device did in one."""
Round = tuple[Batch, ...]
WALKED = 3
"""Rounds that must have been walked: two that are compared, each with the one before it."""


@dataclass(slots=True)
class Quiet:
    """How many batches in a row needed nothing from the driver, and from which number on the rest is taken to."""

    settled: int
    batches: int = 0

    @property
    def is_settled(self) -> bool:
        return self.batches >= self.settled

    def has_room(self, length: int) -> bool:
        """A round of so many batches is over before they could settle, or just then."""
        return not self.is_settled and self.batches + length <= self.settled

    def count(self, *, is_quiet: bool) -> None:
        """One batch more."""
        self.batches = self.batches + 1 if is_quiet else 0


def play_on(device: Device, batches: Round, most: int, quiet: Quiet) -> int:
    """Do this round again, `most` times at most, until batches are settled; returns how often it was done.

    Stops before a round in the midst of which they could settle. Raises OutOfMemory.
    """
    done = 0
    while done < most and quiet.has_room(len(batches)):
        for batch in batches:
            claims = device.claims
            device.do(batch, helds=[])
            quiet.count(is_quiet=device.claims == claims)
        done += 1
    return done


def again(batches: Round, times: int) -> Again:
    """The same as one action."""
    return Again(tuple(action for batch in batches for action in batch), times)


def next_round(batches: Sequence[Batch], growing: Collection[Handle]) -> Round | None:
    """What is done again and again, if the last two of these three rounds did the same; None if not.

    It names the holdings of the last round. Of others, it may move tensors of those that are `growing` alone.
    """
    length = len(batches) // WALKED
    if not length or len(batches) % WALKED or not all(map(_is_plain, batches)):
        return None
    first, before, last = (batches[begin : begin + length] for begin in range(0, WALKED * length, length))
    born = [_born(each, growing) for each in (first, before, last)]
    if not len(born[0]) == len(born[1]) == len(born[2]):
        return None
    kept = dict(zip(growing, growing, strict=True))
    earlier, later = (kept | dict(zip(one, born[2], strict=True)) for one in born[:2])
    earlier |= later
    later |= dict(zip(born[2], born[2], strict=True))
    try:
        return _equal(_renamed(before, earlier), _renamed(last, later))
    except KeyError:  # of an older holding that does not grow
        return None


def _equal(before: Round, last: Round) -> Round | None:
    return last if before == last else None


def _is_plain(batch: Batch) -> bool:
    """Nothing is asked, no step ends, and no blocks of events are put together."""
    return all(isinstance(action, (tuple, PassedOn, OnStream, Emptied)) for action in batch)


def _born(batches: Sequence[Batch], growing: Collection[Handle]) -> list[Handle]:
    """The holdings that are taken in this round, or get another one's tensor, by birth."""
    first: dict[Handle, int] = {}
    for action in (action for batch in batches for action in batch):
        if type(action) is tuple:
            first.setdefault(action[0], action[2])
        elif isinstance(action, PassedOn):
            first.setdefault(action.handle, -1)
            first.setdefault(action.heir, 1)
    return [handle for handle, tensors in first.items() if tensors > 0 and handle not in growing]


def _renamed(batches: Sequence[Batch], names: Mapping[Handle, Handle]) -> Round:
    return tuple(tuple(_with(action, names) for action in batch) for batch in batches)


def _with(action: Action, names: Mapping[Handle, Handle]) -> Action:
    if type(action) is tuple:
        handle, nbytes, tensors = action
        return names[handle], nbytes, tensors
    if isinstance(action, PassedOn):
        return PassedOn(names[action.handle], names[action.heir], action.nbytes)
    return action
