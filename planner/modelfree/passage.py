"""What quantizing one weight, or the weights of one fused set, takes and gives back: simulated once for all like it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from planner.compress.context import Context
from planner.compress.holdings import About, DeviceName
from planner.compress.ledger import Ledger
from planner.cuda.build import CudaBuild
from planner.job import Job
from planner.modelfree.weights import Matrix, Way, WeightWork
from planner.timeline import Handle

Action = tuple[int, int]
"""(number of the tensor, bytes that are taken; negative: given back)."""


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a passage, relative to what was held when it began."""

    actions: tuple[Action, ...]
    peak: int
    """The most bytes above the beginning."""
    net: int
    """Bytes more at the end than at the beginning."""
    at_peak: dict[str, int] = field(hash=False)
    """Bytes by kind at that moment, those of earlier sections of the passage included."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A fused set has one section for each weight, when it is initialized, and a last one; a single weight has one."""

    sections: tuple[Section, ...]
    largest: int
    """Bytes of the largest tensor, results left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPlace:
    """Where weights are quantized."""

    device: DeviceName
    build: CudaBuild | None = None
    """The CUDA build of a GPU; None on the CPU, and for the rehearsal without data."""
    is_meta: bool = False

    def way(self, matrix: Matrix) -> Way:
        """forward_helpers.py _quantize_triton_req: the kernel knows 8-bit floats from Hopper on."""
        if self.is_meta:
            return "meta"
        is_fp8 = matrix.args.type == "float" and matrix.args.num_bits == 8
        return "eager" if self.build is None or (is_fp8 and self.build.sm < 90) else "kernel"


@lru_cache(maxsize=4096)
def passage(matrices: tuple[Matrix, ...], place: WorkPlace) -> Passage:
    """The weights of a fused set, or a single weight, on a device."""
    ledger = Ledger(keep="timeline")
    context = Context(Job(), ledger, cuda=place.build, device=place.device)
    context.cached.update(_ranges(matrices))
    works = [WeightWork(context, matrix, place.way(matrix)) for matrix in matrices]
    ends: list[int] = []

    def mark() -> None:
        ledger.close_step()
        ends.append(ledger.timeline(place.device).ends[-1])

    if len(works) == 1 and not matrices[0].is_fused:
        _alone(works[0])
        mark()
    else:
        for work in works:
            work.initialize()
            mark()
        _together(works)
        mark()
    return sections_of(ledger, place.device, ends)


def _ranges(matrices: Iterable[Matrix]) -> Iterable[str]:
    """helpers.py _calculate_range keeps both ends of each type's range: 8 bytes of the process, not of a weight."""
    return (f"range of {matrix.args.type}{matrix.args.num_bits}" for matrix in matrices)


def _alone(work: WeightWork) -> None:
    """converter.py _process_standard, the body of its loop."""
    work.initialize()
    work.observe()
    work.update(finished=[work])
    work.compress()
    work.results()


def _together(works: list[WeightWork]) -> None:
    """converter.py _process_microscale: the first one observes all, and the last one frees what all observed."""
    for work in works:
        work.observe()
    for number, work in enumerate(works, 1):
        work.update(finished=works if number == len(works) else [])
    for work in works:
        work.compress()
        work.results()


def sections_of(ledger: Ledger, device: DeviceName, ends: list[int]) -> Passage:
    """The events up to each of these ends, as a section of its own."""
    timeline = ledger.timeline(device)
    numbers: dict[Handle, int] = {}
    held: dict[Handle, int] = {}
    sections, begin, largest = [], 0, 0
    for end in ends:
        start = live = peak = sum(held.values())
        actions: list[Action] = []
        at_peak = _by_kind(timeline.about, held)
        for handle, nbytes, tensors in timeline.events[begin:end]:
            number = numbers.setdefault(handle, len(numbers))
            actions.append((number, nbytes * tensors))
            live += nbytes * tensors
            held[handle] = held.get(handle, 0) + nbytes * tensors
            if timeline.about[handle].kind != "compressed":
                largest = max(largest, nbytes)
            if not held[handle]:
                del held[handle]
            if live > peak:
                peak, at_peak = live, _by_kind(timeline.about, held)
        sections.append(Section(tuple(actions), peak - start, live - start, at_peak))
        begin = end
    return Passage(tuple(sections), largest)


def _by_kind(about: Mapping[Handle, About], held: Mapping[Handle, int]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for handle, nbytes in held.items():
        kind = about[handle].kind
        sums[kind] = sums.get(kind, 0) + nbytes
    return sums
