"""A rehearsal's trace as a tape for planner/cuda/allocator.py: what the job does on a card of another size.

Batches that repeat are on the tape three times: the fourth and further ones that ask for the same in the same order,
and leave as much behind as they found, are left out, and what follows refers to the ones before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.compress.fit import FINE, smallest_card
from planner.cuda.allocator import Band, Block, OutOfMemory
from planner.cuda.allocators import allocator
from planner.cuda.settings import AllocatorSettings
from planner.rehearse.trace import BATCH, MARK, Array, Trace
from planner.units import MIB

KEPT = 3
"""Batches of a run of equal ones that stay on the tape."""

Action = tuple[int, int, int]
"""(number of the tensor, its bytes, stream), or (number, -1, 0): it is given back, or (-1, step, 0): a step ends."""


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
        self.actions = _actions(trace, device)

    def play(self, total: int | None, context: int, settings: AllocatorSettings) -> Replay:
        """Ask the same of a card of `total` bytes, of which the CUDA context has `context`; None: there is room."""
        card = allocator(total, context, settings)
        blocks: dict[int, Block] = {}
        reserved: list[int] = []
        ran_out = None
        try:
            for number, nbytes, stream in self.actions:
                if number < 0:
                    reserved.append(card.use.reserved_peak)
                    card.use.restart()
                elif nbytes < 0:
                    card.free(blocks.pop(number))
                else:
                    blocks[number] = card.malloc(nbytes, stream)
        except OutOfMemory as error:
            ran_out = error.asked, error.free
        return Replay(reserved=tuple(reserved), retries=card.use.retries, ran_out=ran_out, band=card.band)

    def smallest(self, start: int, least: int, context: int, settings: AllocatorSettings) -> int:
        """The smallest card on which the job gets through: bytes in whole MiB. `start`: one on which it does, as far
        as known; no card of `least` bytes does."""
        seen: list[Replay] = []

        def gets_through(total: int) -> bool:
            known = next((each for each in seen if each.band and each.band.covers(total - context)), None)
            if known is None:
                known = self.play(total, context, settings)
                seen.append(known)
            return known.ran_out is None

        return -(-smallest_card(gets_through, start, FINE, least) // MIB) * MIB


def _actions(trace: Trace, device: int) -> list[Action]:
    """The tape; equal batches are left out where what is left is sound."""
    records = trace.records
    born, gone = trace.births(device)
    places = np.concatenate([born, gone[gone < len(records)], np.flatnonzero(records["action"] == MARK)])
    number_at = np.full(len(records), -1, np.int64)
    number_at[born] = np.arange(len(born))
    freed = gone < len(records)
    number_at[gone[freed]] = np.flatnonzero(freed)
    is_birth = np.zeros(len(records), bool)
    is_birth[born] = True
    order = np.sort(places)
    left_out, aliases = _repeated(trace, order, number_at, is_birth, born)
    if len(left_out):
        short = _listed(trace, np.setdiff1d(order, left_out), number_at, is_birth, aliases)
        if _is_sound(short):
            return short
    return _listed(trace, order, number_at, is_birth, {})


def _listed(trace: Trace, order: Array, number_at: Array, is_birth: Array, aliases: dict[int, int]) -> list[Action]:
    rows = trace.records[order]
    columns = (rows["action"], number_at[order], is_birth[order], rows["bytes"], rows["stream"], rows["number"])
    actions: list[Action] = []
    for action, number, is_taken, nbytes, stream, step in zip(*(each.tolist() for each in columns), strict=True):
        if action == MARK:
            actions.append((-1, step, 0))
        else:
            number = aliases.get(number, number)
            actions.append((number, nbytes, stream) if is_taken else (number, -1, 0))
    return actions


def _repeated(
    trace: Trace, order: Array, number_at: Array, is_birth: Array, born: Array
) -> tuple[Array, dict[int, int]]:
    """Events that are left out, and for tensors that were born among them those in whose place they are."""
    position = np.full(len(trace.records), -1, np.int64)
    position[order] = np.arange(len(order))
    left_out: list[Array] = []
    aliases: dict[int, int] = {}
    for batches in _runs(trace, order):
        signatures = [_signature(trace, each, position, number_at, is_birth, born) for each in batches]
        first = 1
        while first < len(batches):
            last = first
            while last < len(batches) and signatures[last] == signatures[first - 1] and signatures[last][1] == 0:
                last += 1
            begin, dropped = first - 1 + KEPT, last - (first - 1 + KEPT)
            if dropped > 0:
                left_out += batches[begin:last]
                for place in range(begin, last):
                    aliases.update(_matched(batches, place, dropped, number_at, is_birth))
            first = max(last, first + 1)
    return (np.concatenate(left_out) if left_out else np.empty(0, np.int64)), aliases


def _matched(batches: Sequence[Array], place: int, shift: int, number_at: Array, is_birth: Array) -> dict[int, int]:
    """The tensors of a batch by those of the batch `shift` before it."""
    if place - shift < 0:
        return {}
    here, there = batches[place], batches[place - shift]
    new, old = number_at[here[is_birth[here]]].tolist(), number_at[there[is_birth[there]]].tolist()
    return dict(zip(new, old, strict=False))


def _runs(trace: Trace, order: Array) -> list[list[Array]]:
    """Of each step that has batches, the events of each batch, by their places in the trace."""
    action = trace.records["action"]
    cuts = np.flatnonzero((action == BATCH) | (action == MARK))
    runs: list[list[Array]] = []
    events = order[action[order] != MARK]
    is_open = False
    for cut, following in zip(cuts.tolist(), [*cuts.tolist()[1:], len(action)], strict=True):
        if action[cut] != BATCH:
            is_open = False
            continue
        if not is_open:
            runs.append([])
            is_open = True
        low, high = np.searchsorted(events, [cut, following])
        runs[-1].append(events[low:high])
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


def _is_sound(actions: Sequence[Action]) -> bool:
    """Every tensor is taken once before it is given back."""
    live: set[int] = set()
    for number, nbytes, _ in actions:
        if number < 0:
            continue
        if nbytes >= 0:
            if number in live:
                return False
            live.add(number)
        elif number not in live:
            return False
        else:
            live.remove(number)
    return True
