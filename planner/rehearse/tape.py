"""A rehearsal's trace as a tape for planner/cuda/allocator.py: what the job does on a card of another size.

Batches that repeat, singly or in pairs, are on the tape once with their number. They are played until one leaves all
blocks where one of the last few left them: from there on everything comes again, and is passed over.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.compress.fit import FINE
from planner.cuda.allocator import Band, Block, CachingAllocator, Layout, OutOfMemory
from planner.cuda.allocators import allocator
from planner.cuda.settings import AllocatorSettings
from planner.rehearse.trace import AGAIN, BATCH, MARK, ROUNDS_END, Array, Trace
from planner.units import MIB

APART = 2
"""Batches (or pairs) of a run of equal ones that stand apart: they give back what was taken before the run."""
PERIODS = (1, 2)
"""Two names that are bound in turn (an input, and the one before that a progress bar holds) make pairs of batches."""
NEAR = 8
"""Of the sizes between one that fails and one that does not, an eighth from the former is tried."""
AT_A_TIME = 100_000
"""Events that are made into actions together."""
CYCLE = 64
"""Layouts that are remembered: two blocks that change places lie as before after two batches, others after 24."""

Action = tuple[int, int, int]
"""(number of the tensor, its bytes, stream), or (number, -1, 0): it is given back, or (-1, step, 0): a step ends."""


@dataclass(frozen=True, slots=True)
class TapePart:
    """Actions in order, done so many times."""

    actions: Sequence[Action]
    times: int = 1
    taken: int = 0
    """Tensors that they take: each time, all numbers are higher by this."""
    first: int = 0
    """Number of the first tensor that is higher each time; those below it lie there throughout."""
    unwritten: int = 0
    """Of the times, those that the rehearsal did not run: its trace counts no tensors for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The tape on one card."""

    reserved: tuple[int, ...]
    """The most in each step, as far as it came."""
    retries: int
    ran_out: tuple[int, int] | None
    """What was asked for and what was free, where the memory did not do."""
    band: Band | None
    """Cards of which all is equal."""


class RecordedTape:
    """What one card was asked for, in order."""

    def __init__(self, trace: Trace, device: int = 0) -> None:
        self.parts = _parts(trace, device)
        self.steps = int(np.count_nonzero(trace.records["action"] == MARK))

    def play(self, total: int | None, context: int, settings: AllocatorSettings) -> Replay:
        """Ask the same of a card of `total` bytes, of which the CUDA context has `context`; None: there is room."""
        card = allocator(total, context, settings)
        player = _Player(card)
        ran_out = None
        try:
            for part in self.parts:
                player.play(part)
        except OutOfMemory as error:
            ran_out = error.asked, error.free
        return Replay(reserved=tuple(player.reserved), retries=card.use.retries, ran_out=ran_out, band=card.band)

    def smallest(
        self, start: int, least: int, context: int, settings: AllocatorSettings, *, is_known: bool = False
    ) -> int:
        """The smallest card on which the job gets through, of those that are tried: bytes in whole MiB.

        `start`: one on which it does, as far as known; where that `is_known`, nobody tries. No card of `least` bytes
        does. A card that is too small fails early, and one that is large enough plays the whole tape: so sizes near
        the failing one are tried first, as long as failing stays cheap.
        """
        seen: list[Replay] = []

        def played(total: int) -> Replay:
            known = next((each for each in seen if each.band and each.band.covers(total - context)), None)
            if known is None:
                known = self.play(total, context, settings)
                seen.append(known)
            return known

        passes, fails, share = start, least, NEAR
        while not is_known and played(passes).ran_out is not None:
            fails, passes = passes, passes + max(passes // 8, MIB)
        while passes - fails > max(4 * MIB, passes // FINE):
            middle = fails + (passes - fails) // share
            found = played(middle)
            if found.ran_out is None:
                passes = middle
            else:
                fails = middle
                share = 2 if len(found.reserved) > self.steps // 4 else share
        return -(-passes // MIB) * MIB


class _Player:
    """A card, and where on it each tensor lies."""

    def __init__(self, card: CachingAllocator) -> None:
        self.card = card
        self.blocks: dict[int, Block] = {}
        self.reserved: list[int] = []

    def play(self, part: TapePart) -> None:
        """Do all actions, as often as they are done; what would lead to where the blocks lay before is passed over."""
        seen: deque[tuple[Layout, int]] = deque(maxlen=CYCLE)
        time = 0
        while time < part.times:
            self._do(part.actions, time * part.taken)
            time += 1
            if time < part.times:
                time += self._passed_over(part, part.times - time, seen)
        if part.unwritten:
            self._rename(part.first, -part.unwritten * part.taken)

    def _passed_over(self, part: TapePart, left: int, seen: "deque[tuple[Layout, int]]") -> int:
        """Of so many times that are left, how many need not be done: whole rounds from this layout to itself."""
        now, retries = self.card.layout([self.blocks.values()]), self.card.use.retries
        found = next((ago for ago, (layout, _) in enumerate(reversed(seen), 1) if layout == now), None)
        rounds = left // found if found else 0
        if found and rounds:
            self.card.use.retries += rounds * (retries - seen[-found][1])
            self._rename(part.first, rounds * found * part.taken)
        seen.append((now, retries))
        return rounds * (found or 0)

    def _do(self, actions: Sequence[Action], shift: int) -> None:
        card, blocks = self.card, self.blocks
        for number, nbytes, stream in actions:
            if number < 0:
                self.reserved.append(card.use.reserved_peak)
                card.use.restart()
            elif nbytes < 0:
                card.free(blocks.pop(number + shift))
            else:
                blocks[number + shift] = card.malloc(nbytes, stream)

    def _rename(self, first: int, shift: int) -> None:
        """What lies where a tensor of a later batch would: it is that one from now on."""
        self.blocks = {number + shift * (number >= first): block for number, block in self.blocks.items()}


def _parts(trace: Trace, device: int) -> tuple[TapePart, ...]:
    """The tape."""
    records = trace.records
    born, gone = trace.births(device)
    freed = gone < len(records)
    order = np.sort(np.concatenate([born, gone[freed], np.flatnonzero(records["action"] == MARK)]))
    number_at = np.full(len(records), -1, np.int64)
    number_at[born] = np.arange(len(born))
    number_at[gone[freed]] = np.flatnonzero(freed)
    is_birth = np.zeros(len(records), bool)
    is_birth[born] = True
    parts: list[TapePart] = []
    done = 0
    for each in _repetitions(trace, order, number_at, is_birth, born):
        parts.append(TapePart(_listed(trace, order[done : each.begin], number_at, is_birth)))
        events = order[each.begin : each.begin + each.length]
        actions = _listed(trace, events, number_at, is_birth)
        taken = int(np.count_nonzero(is_birth[events]))
        parts.append(TapePart(actions, each.written + each.unwritten, taken, each.first, each.unwritten))
        done = each.begin + each.length * each.written
    return (*parts, TapePart(_listed(trace, order[done:], number_at, is_birth)))


def _listed(trace: Trace, events: Array, number_at: Array, is_birth: Array) -> list[Action]:
    actions: list[Action] = []
    live: dict[int, int] = {}  # one object for a tensor's number and one for each size: there are millions
    sizes: dict[int, int] = {}
    for action, number, is_taken, nbytes, stream, step in _rows(trace, events, number_at, is_birth):
        if action == MARK:
            actions.append((-1, step, 0))
        elif is_taken:
            live[number] = number
            actions.append((number, sizes.setdefault(nbytes, nbytes), stream))
        else:
            actions.append((live.pop(number, number), -1, 0))
    return actions


def _rows(trace: Trace, events: Array, number_at: Array, is_birth: Array) -> Iterator[tuple[int, ...]]:
    """What `_listed` reads of each event; Python's numbers for a part of them at a time."""
    for begin in range(0, len(events), AT_A_TIME):
        part = events[begin : begin + AT_A_TIME]
        rows = trace.records[part]
        columns = (rows["action"], number_at[part], is_birth[part], rows["bytes"], rows["stream"], rows["number"])
        yield from zip(*(each.tolist() for each in columns), strict=True)


@dataclass(frozen=True, slots=True)
class _Repetition:
    """Events that are done several times."""

    begin: int
    """Where in the order they begin."""
    length: int
    written: int
    """How often they are in the trace, one after the other."""
    unwritten: int
    """How often they come behind that, and are not in the trace."""
    first: int
    """The first number of a tensor that is another one each time."""


@dataclass(slots=True)
class _Run:
    """Batches that follow each other: of each its events, by their places in the trace."""

    batches: list[Array] = field(default_factory=list)
    again: list[tuple[int, int, int]] = field(default_factory=list)
    """(how many of the batches came before, how many of these came again, how often), as the child says."""


def _repetitions(trace: Trace, order: Array, number_at: Array, is_birth: Array, born: Array) -> Iterator[_Repetition]:
    position = np.full(len(trace.records), -1, np.int64)
    position[order] = np.arange(len(order))
    for run in _runs(trace, order):
        begin = 0
        for before, period, times in run.again:
            yield from _found(trace, run.batches[begin : before - period], position, number_at, is_birth, born)
            begin = before
            events = np.concatenate(run.batches[before - period : before])
            if len(events):
                first = int(number_at[events].min())
                yield _Repetition(int(position[events[0]]), len(events), 1, times, first)
        yield from _found(trace, run.batches[begin:], position, number_at, is_birth, born)


def _found(
    trace: Trace, batches: Sequence[Array], position: Array, number_at: Array, is_birth: Array, born: Array
) -> Iterator[_Repetition]:
    """What these batches do several times, as they show; all from the first number on that was taken in them."""
    asked, left = _signatures(trace, batches, position, number_at, is_birth, born)
    first = 0
    while first < len(batches):
        period, times = _repetition(asked, left, first)
        found = _template(batches, first, period, number_at, is_birth) if times > APART + 1 else None
        if found is not None:
            events, lowest = found
            yield _Repetition(int(position[events[0]]), len(events), times - APART, 0, lowest)
        first += times * period if found is not None else 1


def _template(
    batches: Sequence[Array], first: int, period: int, number_at: Array, is_birth: Array
) -> tuple[Array, int] | None:
    """The events that are done again and again, and the first number that the run takes; None where they give back
    what was taken before the run: the next time that would be another tensor."""
    begin = np.concatenate(batches[first : first + period])
    events = np.concatenate(batches[first + APART * period : first + (APART + 1) * period])
    taken = number_at[begin[is_birth[begin]]]
    if not len(taken) or not len(events) or number_at[events].min() < taken.min():
        return None
    return events, int(taken.min())


def _repetition(asked: Sequence[int], left: Sequence[int], first: int) -> tuple[int, int]:
    """How many batches from `first` on make a period that repeats, and how often it is there; (1, 1): none."""
    found = 1, 1
    for period in PERIODS:
        last = first + period
        if last >= len(asked) or sum(left[first:last]) != 0:
            continue
        while last < len(asked) and asked[last] == asked[last - period]:
            last += 1
        times = (last - first) // period
        if times * period > found[0] * found[1] + period:
            found = period, times
    return found


def _signatures(
    trace: Trace, batches: Sequence[Array], position: Array, number_at: Array, is_birth: Array, born: Array
) -> tuple[list[int], list[int]]:
    """Of each batch a number that equal ones share, and the bytes that it leaves."""
    known: dict[tuple[bytes, int], int] = {}
    each = [_signature(trace, batch, position, number_at, is_birth, born) for batch in batches]
    return [known.setdefault(one, len(known)) for one in each], [left for _, left in each]


def _runs(trace: Trace, order: Array) -> list[_Run]:
    """The batches of each loop: those of one step, where nobody says that it is over."""
    action = trace.records["action"]
    cuts = np.flatnonzero(np.isin(action, (BATCH, ROUNDS_END, MARK)))
    again = np.flatnonzero(action == AGAIN)
    runs: list[_Run] = []
    events = order[action[order] != MARK]
    is_open = False
    for cut, following in zip(cuts.tolist(), [*cuts.tolist()[1:], len(action)], strict=True):
        if action[cut] != BATCH:
            is_open = False
            continue
        if not is_open:
            runs.append(_Run())
            is_open = True
        low, high = np.searchsorted(again, [cut, following])
        for row in trace.records[again[low:high]]:
            runs[-1].again.append((len(runs[-1].batches), int(row["bytes"]), int(row["number"])))
        low, high = np.searchsorted(events, [cut, following])
        runs[-1].batches.append(events[low:high])
    return runs


def _signature(
    trace: Trace, batch: Array, position: Array, number_at: Array, is_birth: Array, born: Array
) -> tuple[bytes, int]:
    """What a batch asks for, and which tensors it gives back, by how long ago they were taken; bytes that it leaves."""
    taken = is_birth[batch]
    sizes = trace.records["bytes"][batch].astype(np.int64)
    stream = trace.records["stream"][batch].astype(np.int64)
    ago = position[batch] - position[born[number_at[batch]]]
    given = trace.records["bytes"][born[number_at[batch]]].astype(np.int64)
    what = np.where(taken, sizes, -ago)
    change = int(np.where(taken, sizes, -given).sum())
    return np.stack([what, np.where(taken, stream, -1)]).tobytes(), change
