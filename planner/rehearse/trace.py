"""The trace of a rehearsal: every event of PyTorch's caching allocator, and every large CPU tensor, in their order.

driver/deeds.h writes it: records of 24 bytes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.compress.schema import Owned
from planner.cuda.build import CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_FROM_SM_90
from planner.rehearse.events import CodeFrame
from planner.rehearse.kinds import cublas_workspaces, kind_of, owned

RECORD = np.dtype(
    [
        ("action", "u1"),
        ("device", "u1"),
        ("stream", "<u2"),
        ("number", "<u4"),
        ("bytes", "<u8"),
        ("address", "<u8"),
    ]
)
ALLOC, FREE, FREED, SEGMENT, SEGMENT_FREE, OUT_OF_MEMORY, MARK, ORIGIN, CPU_ALLOC, CPU_FREE, ASKED, BATCH = range(12)
AGAIN, ROUNDS_END = 12, 13
"""The last `bytes` batches come `number` times more; what follows belongs to no batch."""
LAYOUT, BLOCK = 14, 15
"""Where all blocks lay when step `number` ended, one row for each: planner/rehearse/layouts.py."""
LARGEST = 8
"""Holdings that a step names."""
WORKSPACES = (CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_FROM_SM_90)
Array = Any  # numpy's arrays of these records


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldThen:
    """What is alive at one moment."""

    bytes: int
    largest: tuple[Owned, ...]
    by_kind: dict[str, int]


NOTHING = HeldThen(bytes=0, largest=(), by_kind={})


class Trace:
    """One rehearsal's trace, to be asked what was alive when."""

    def __init__(self, records: Array, origins: Mapping[int, Sequence[CodeFrame]], script: str) -> None:
        self.records, self._origins, self._script = records, origins, script
        named = records[records["action"] == ORIGIN]
        self._origin_of = np.zeros(int(records["number"].max(initial=0)) + 1, np.uint32)
        """Of the tensor with each number; 0: nobody said."""
        self._origin_of[named["number"]] = named["bytes"]
        self._marks = np.flatnonzero(records["action"] == MARK)
        self._births: dict[int | None, tuple[Array, Array]] = {}

    @classmethod
    def read(cls, path: Path, origins: Mapping[int, Sequence[CodeFrame]], script: str) -> "Trace":
        """The trace in this file; of a record that was not written to its end, nothing."""
        size = path.stat().st_size // RECORD.itemsize if path.exists() else 0
        return cls(np.fromfile(path, dtype=RECORD, count=size) if size else np.empty(0, RECORD), origins, script)

    @property
    def questions(self) -> int:
        """How often the job was told how much of the card is free."""
        return int(np.count_nonzero(self.records["action"] == ASKED))

    @property
    def card_that_ran_out(self) -> int | None:
        """Number of the card whose memory ran out last; None where none's did."""
        found = self.records["device"][self.records["action"] == OUT_OF_MEMORY]
        return int(found[-1]) if len(found) else None

    def ran_out(self, device: int) -> tuple[int, int] | None:
        """What was asked for and what was free when this card's memory ran out last; None where it never did."""
        found = self.records[(self.records["action"] == OUT_OF_MEMORY) & (self.records["device"] == device)]
        return (int(found["bytes"][-1]), int(found["address"][-1])) if len(found) else None

    def at_peaks(self, device: int | None) -> list[HeldThen]:
        """What was alive at each step's highest moment on this card; None: on the CPU, large tensors alone."""
        born, gone = self.births(device)
        if not len(born):
            return [NOTHING] * len(self._marks)
        places, live = self._levels(born, gone)
        workspaces = self._workspaces(born, gone, device)
        helds, begin, alive = [], 0, np.empty(0, np.int64)
        for mark in self._marks.tolist():
            at = _highest(places, live, begin, mark)
            came = np.arange(*np.searchsorted(born, [begin + bool(begin), mark], side="left"))
            alive = np.concatenate([alive, came])
            is_there = (born[alive] <= at) & (gone[alive] > at)
            helds.append(self._held(born[alive[is_there]], device is not None, workspaces))
            alive = alive[gone[alive] > mark]
            begin = mark
        return helds

    def _levels(self, born: Array, gone: Array) -> tuple[Array, Array]:
        """Where anything is taken or given back, in order, and how many bytes are alive from there on."""
        sizes = self.records["bytes"][born].astype(np.int64)
        is_given = gone < len(self.records)
        places = np.concatenate([born, gone[is_given]])
        order = np.argsort(places)
        return places[order], np.cumsum(np.concatenate([sizes, -sizes[is_given]])[order])

    def at_end(self, device: int) -> HeldThen:
        """What was alive when the card's memory ran out, or at the end."""
        born, gone = self.births(device)
        out = np.flatnonzero((self.records["action"] == OUT_OF_MEMORY) & (self.records["device"] == device))
        at = int(out[-1]) if len(out) else len(self.records)
        return self._held(born[(born <= at) & (gone > at)], True, self._workspaces(born, gone, device))

    def births(self, device: int | None) -> tuple[Array, Array]:
        """Where each tensor was taken, and where given back; one behind the last record where it never was."""
        if device not in self._births:
            self._births[device] = self._found_births(device)
        return self._births[device]

    def _found_births(self, device: int | None) -> tuple[Array, Array]:
        records = self.records
        taken, given = (CPU_ALLOC, CPU_FREE) if device is None else (ALLOC, FREED)
        action = records["action"]
        here = (action == taken) | (action == given)
        if device is not None:
            here &= records["device"] == device
        places = np.flatnonzero(here)
        order = places[np.argsort(records["address"][places], kind="stable")]
        is_birth = action[order] == taken
        same = np.zeros(len(order), bool)
        same[:-1] = records["address"][order][:-1] == records["address"][order][1:]
        following = np.full(len(order), len(records), np.int64)
        following[:-1] = np.where(same[:-1], order[1:], len(records))
        born = order[is_birth]
        gone = following[is_birth]
        by_time = np.argsort(born)
        return born[by_time], gone[by_time]

    def _workspaces(self, born: Array, gone: Array, device: int | None) -> frozenset[int]:
        """Where cuBLAS took its workspaces: of each stream the first tensor of exactly that size that is never given
        back and that is no weight. Python's frames are those of whichever product came first."""
        if device is None:
            return frozenset()
        rows = self.records[born]
        first: dict[int, int] = {}
        for place in np.flatnonzero((gone == len(self.records)) & np.isin(rows["bytes"], WORKSPACES)).tolist():
            if kind_of(self._frames(int(rows["number"][place]))) not in ("weights", "model"):
                first.setdefault(int(rows["stream"][place]), int(born[place]))
        return frozenset(first.values())

    def _frames(self, number: int) -> tuple[CodeFrame, ...]:
        """The code that asked for this tensor, the innermost frame first."""
        return self._frames_of(int(self._origin_of[number]))

    def _frames_of(self, origin: int) -> tuple[CodeFrame, ...]:
        return tuple(self._origins.get(origin, ()))

    def _held(self, places: Array, on_card: bool, workspaces: frozenset[int]) -> HeldThen:
        rows = self.records[places]
        sizes, is_kept = rows["bytes"].astype(np.int64), np.isin(places, list(workspaces))
        groups: dict[tuple[CodeFrame, ...], tuple[int, int]] = {}
        for origin, count, nbytes in _by_origin(self._origin_of[rows["number"][~is_kept]], sizes[~is_kept]):
            frames = self._frames_of(origin)
            before = groups.get(frames, (0, 0))
            groups[frames] = before[0] + count, before[1] + nbytes
        all_owned = [owned(frames, self._script, *each, on_card) for frames, each in groups.items()]
        all_owned += cublas_workspaces(sizes[is_kept].tolist())
        by_kind: dict[str, int] = defaultdict(int)
        for each in all_owned:
            by_kind[each.kind] += each.bytes
        largest = sorted(all_owned, key=lambda each: -each.bytes)[:LARGEST]
        return HeldThen(bytes=int(sizes.sum()), largest=tuple(largest), by_kind=dict(by_kind))


def _highest(places: Array, live: Array, begin: int, mark: int) -> int:
    """Where most is alive first, from the one place to the other."""
    low, high = np.searchsorted(places, [begin, mark], side="right").tolist()
    level = int(live[low - 1]) if low else 0
    if low == high or int(live[low:high].max()) <= level:
        return begin
    return int(places[low + int(np.argmax(live[low:high]))])


def _by_origin(origins: Array, sizes: Array) -> Iterator[tuple[int, int, int]]:
    """Each origin, how many tensors it has and their bytes, in the order in which they are met first."""
    found, first, group = np.unique(origins, return_index=True, return_inverse=True)
    counts, totals = np.bincount(group, minlength=len(found)), np.zeros(len(found), np.int64)
    np.add.at(totals, group, sizes)
    for place in np.argsort(first).tolist():
        yield int(found[place]), int(counts[place]), int(totals[place])
