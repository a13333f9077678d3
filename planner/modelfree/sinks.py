"""Who follows a file's job: one counts what is requested, one places each tensor as PyTorch's allocator does."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from planner.cuda.allocator import Block, CachingAllocator
from planner.modelfree.files import FilePlan
from planner.modelfree.passage import Passage, WorkPlace

ORIGINALS, RESULTS = "originals", "results"


class Tally:
    """The most bytes that are requested at a moment, and what they are then."""

    def __init__(self, *, with_originals: bool = True) -> None:
        self.with_originals = with_originals
        """False where they are views of the file."""
        self.originals = self.results = self.peak = 0
        self.loaded = 0
        """Bytes of the file's tensors."""
        self.parts: dict[str, int] = {}
        self.owner = ""
        """The weight that is worked on at the peak; empty where that is the load."""
        self.largest = 0
        """The largest temporary of any weight."""
        self.work_peak = 0
        """The most that any weight takes beside originals and results."""
        self._sizes: dict[str, int] = {}

    def take(self, name: str, nbytes: int) -> None:
        self._sizes[name] = nbytes
        self.loaded += nbytes
        if self.with_originals:
            self.originals += nbytes
        self._see({}, 0, "")

    def give(self, name: str) -> None:
        if self.with_originals:
            self.originals -= self._sizes[name]

    def work(self, owner: str, found: Passage, number: int) -> None:
        section = found.sections[number]
        self.largest = max(self.largest, found.largest)
        self.work_peak = max(self.work_peak, section.peak)
        self._see(section.at_peak, section.peak, owner)
        self.results += section.net

    def _see(self, at_peak: dict[str, int], above: int, owner: str) -> None:
        total = self.originals + self.results + above
        if total > self.peak:
            self.peak, self.owner = total, owner
            # tensors of a fused set that earlier sections left are among `results` and among `at_peak`
            beside = self.results + above - sum(at_peak.values())
            self.parts = {ORIGINALS: self.originals, RESULTS: beside, **at_peak}


def tally(plan: FilePlan, place: WorkPlace, *, with_originals: bool = True) -> Tally:
    """The file's job counted."""
    found = Tally(with_originals=with_originals)
    plan.play(found, place)
    return found


class Placing:
    """The tensors of one file's job in an allocator."""

    def __init__(self, allocator: CachingAllocator) -> None:
        self._allocator = allocator
        self._blocks: dict[object, Block] = {}

    def take(self, name: str, nbytes: int) -> None:
        self._blocks[name] = self._allocator.malloc(nbytes)

    def give(self, name: str) -> None:
        self._allocator.free(self._blocks.pop(name))

    def work(self, owner: str, found: Passage, number: int) -> None:
        malloc, free, blocks = self._allocator.malloc, self._allocator.free, self._blocks
        for tensor, nbytes in found.sections[number].actions:
            if nbytes > 0:
                blocks[owner, tensor] = malloc(nbytes)
            else:
                free(blocks.pop((owner, tensor)))

    def end(self) -> None:
        """The file is saved, and its tensors go."""
        for block in self._blocks.values():
            self._allocator.free(block)
        self._blocks.clear()


class _Steps:
    """A file's job as a list of steps, so that several can be taken in turns."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, tuple[object, ...]]] = []

    def take(self, name: str, nbytes: int) -> None:
        self.steps.append(("take", (name, nbytes)))

    def give(self, name: str) -> None:
        self.steps.append(("give", (name,)))

    def work(self, owner: str, found: Passage, number: int) -> None:
        self.steps.append(("work", (owner, found, number)))


def place_together(plans: Sequence[FilePlan], place: WorkPlace, allocator: CachingAllocator) -> None:
    """The jobs of several files at a time, step by step in turns. Raises OutOfMemory."""
    placings = [Placing(allocator) for _ in plans]
    lists = [_steps(plan, place) for plan in plans]
    for turn in zip_longest(*lists):
        for placing, step in zip(placings, turn, strict=True):
            if step is not None:
                getattr(placing, step[0])(*step[1])
    for placing in placings:
        placing.end()


def _steps(plan: FilePlan, place: WorkPlace) -> Iterable[tuple[str, tuple[object, ...]]]:
    found = _Steps()
    plan.play(found, place)
    return found.steps
