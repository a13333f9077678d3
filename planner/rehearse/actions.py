"""A rehearsal's trace as actions for planner/cuda/allocator.py: what is taken and given back, and when a step ends.

Batches that repeat, singly or in pairs, are there once with their number: those that the trace has, and those that the
rehearsal passed over.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.rehearse.trace import AGAIN, BATCH, MARK, ROUNDS_END, Array, Trace

APART = 2
"""Batches (or pairs) of a run of equal ones that stand apart: they give back what was taken before the run."""
PERIODS = (1, 2)
"""Two names that are bound in turn (an input, and the one before that a progress bar holds) make pairs of batches."""
AT_A_TIME = 100_000
"""Events that are made into actions together."""

Action = tuple[int, int, int]
"""(number of the tensor, its bytes, stream), or (number, -1, 0): it is given back, or (-1, step, 0): a step ends."""


@dataclass(frozen=True, slots=True)
class TapePart:
    """Actions in order, done so many times."""

    listed: Callable[[], Sequence[Action]]
    """Makes the actions, once: a play seldom begins with the first part."""
    times: int = 1
    taken: int = 0
    """Tensors that they take: each time, all numbers are higher by this."""
    first: int = 0
    """Number of the first tensor that is higher each time; those below it lie there throughout."""
    is_closed: bool = False
    """All that they take they give back, and nothing else."""
    unwritten: int = 0
    """Of the times, those that the rehearsal did not run: its trace counts no tensors for them."""
    ends_step: bool = False
    """Its last action is the end of a step."""

    @property
    def actions(self) -> Sequence[Action]:
        """What is done each time, in order."""
        return self.listed()


def tape_parts(trace: Trace, device: int) -> tuple[TapePart, ...]:
    """What the card of this number was asked for."""
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
        parts += _step_by_step(trace, order[done : each.begin], number_at, is_birth)
        events = order[each.begin : each.begin + each.length]
        actions = _when_wanted(trace, events, number_at, is_birth)
        taken = number_at[events[is_birth[events]]]
        is_closed = np.array_equal(np.sort(taken), np.sort(number_at[events[~is_birth[events]]]))
        times = each.written + each.unwritten
        parts.append(TapePart(actions, times, len(taken), each.first, is_closed, each.unwritten))
        done = each.begin + each.length * each.written
    return (*parts, *_step_by_step(trace, order[done:], number_at, is_birth))


def _step_by_step(trace: Trace, events: Array, number_at: Array, is_birth: Array) -> Iterator[TapePart]:
    """A part for what these events are of each step."""
    ends = np.flatnonzero(trace.records["action"][events] == MARK) + 1
    for begin, end in zip([0, *ends.tolist()], [*ends.tolist(), len(events)], strict=True):
        if end > begin:
            part = events[begin:end]
            ends_step = bool(trace.records["action"][part[-1]] == MARK)
            yield TapePart(_when_wanted(trace, part, number_at, is_birth), ends_step=ends_step)


def _when_wanted(trace: Trace, events: Array, number_at: Array, is_birth: Array) -> Callable[[], list[Action]]:
    return functools.cache(functools.partial(_listed, trace, events, number_at, is_birth))


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
class _BatchRun:
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


def _runs(trace: Trace, order: Array) -> list[_BatchRun]:
    """The batches of each loop: those of one step, where nobody says that it is over."""
    action = trace.records["action"]
    cuts = np.flatnonzero(np.isin(action, (BATCH, ROUNDS_END, MARK)))
    again = np.flatnonzero(action == AGAIN)
    runs: list[_BatchRun] = []
    events = order[action[order] != MARK]
    is_open = False
    for cut, following in zip(cuts.tolist(), [*cuts.tolist()[1:], len(action)], strict=True):
        if action[cut] != BATCH:
            is_open = False
            continue
        if not is_open:
            runs.append(_BatchRun())
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
