"""The card of a model-free job: what the library lets run at a time, what the allocator reserves, what is too small.

compressed_tensors entrypoints/convert/memory.py exec_jobs_dynamic: a file begins when its estimate fits into what was
free at the start, less the estimates of the files that are worked on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.compress.fit import smallest_card
from planner.cuda.allocator import CachingAllocator, OutOfMemory
from planner.modelfree.files import FilePlan
from planner.modelfree.passage import WorkPlace
from planner.modelfree.sinks import Tally, place_together
from planner.units import MIB

MANY = 500
"""Weights of a file from which on fewer groups and sizes are tried."""
SETTLED, SOON = 3, 1
"""After so many groups of files in a row that took no new segment, the rest is taken to need none either."""
FINE, COARSE = 200, 50
"""The smallest card is looked for to so small a part of its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedFile:
    """A file's job with its figures: on the device, and in the library's rehearsal."""

    plan: FilePlan
    tally: Tally
    estimate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesOutcome:
    """The job on one card."""

    files: tuple[CountedFile, ...]
    """Those that are there at a time, at most."""
    refused: bool = False
    """The library itself says that a file does not fit."""
    runs_out: bool = False
    retries: int = 0


class CardOfFiles:
    """One card, on which up to `workers` files are worked on at a time."""

    def __init__(self, files: Sequence[CountedFile], place: WorkPlace, workers: int, context: int) -> None:
        self.files, self.place, self.workers, self.context = files, place, workers, context
        self._largest = sorted(files, key=lambda each: -each.tally.peak)
        self._is_large = max(len(each.plan.order) for each in files) > MANY

    def on(self, total: int) -> FilesOutcome:
        """A card of so many bytes: the largest files that the library lets run together there."""
        free = total - self.context
        if max(each.estimate for each in self.files) > free:
            return FilesOutcome(files=(), refused=True, runs_out=True)
        chosen = tuple(self._admitted(free))
        allocator = CachingAllocator(total, self.context)
        try:
            place_together([each.plan for each in chosen], self.place, allocator)
        except OutOfMemory:
            return FilesOutcome(files=chosen, runs_out=True)
        return FilesOutcome(files=chosen, retries=allocator.use.retries)

    def at_once(self) -> tuple[CountedFile, ...]:
        """The largest files, on a card with room for as many as there are workers."""
        return tuple(self._largest[: self.workers])

    def reserved(self) -> int:
        """What the allocator holds at most on a card with room, in bytes."""
        allocator, quiet = CachingAllocator(), 0
        for group in self._groups():
            before = allocator.use.reserved
            place_together([each.plan for each in group], self.place, allocator)
            quiet = quiet + 1 if allocator.use.reserved == before else 0
            if quiet == (SOON if self._is_large else SETTLED):
                place_together([each.plan for each in self.at_once()], self.place, allocator)
                break
        return allocator.use.reserved_peak

    def smallest(self) -> int:
        """The smallest card, in whole MiB, on which one file after the other gets through, and the library begins."""
        alone = CardOfFiles(self.files, self.place, 1, self.context)
        largest, estimate = alone.at_once()[0], max(each.estimate for each in self.files)
        roomy = CachingAllocator()
        place_together([largest.plan], self.place, roomy)
        least = max(estimate, largest.tally.peak) + self.context
        enough = max(estimate, roomy.use.reserved_peak) + self.context
        resolution = COARSE if self._is_large else FINE
        found = smallest_card(lambda total: not alone.on(total).runs_out, enough, resolution, least=least - 1)
        return -(-found // MIB) * MIB

    def _admitted(self, free: int) -> Iterator[CountedFile]:
        count = 0
        for each in self._largest:
            if count < self.workers and each.estimate <= free:
                free, count = free - each.estimate, count + 1
                yield each

    def _groups(self) -> Iterator[Sequence[CountedFile]]:
        for first in range(0, len(self.files), self.workers):
            yield self.files[first : first + self.workers]
