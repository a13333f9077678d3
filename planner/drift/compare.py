"""Lays a rehearsal beside the plan of the same job, step by step. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.compress.parts import PART_NAMES, cpu_parts, gpu_parts
from planner.compress.schema import CpuStep, GpuStep, Owned, Plan, Step
from planner.drift.cited import cited
from planner.drift.schema import DriftFigure, DriftStep, DriftWorst
from planner.units import MIB

TRIFLE = 4 * MIB
"""Bytes that no step is blamed for: small tensors come and go with versions of everything."""
NOT_COMPARED = ("between", "script", "load", "save")
"""A rehearsal writes no files and finds made-up weights: loading and saving go through their motions."""
SHOWN = 3
"""Holdings that are named on each side."""
COLLECTED = "transform"
"""Kind of CPU memory that a plan counts to the end of the job, which is the most: matrices of transforms that have done
their work wait for Python's collector (compress/modifiers/rotations.py garbage), and when it comes is chance."""
RESERVED_CITED = ("c10/cuda/CUDACachingAllocator.cpp, by way of planner/cuda/allocator.py",)

Key = tuple[str | None, int | None, str, int]
Pair = tuple[Step, Step]
"""The step of the rehearsal, and that of the plan."""
Parts = Callable[[Mapping[str, int]], dict[str, int]]


@dataclass(frozen=True, slots=True)
class _Measure:
    """How one figure is read off a step."""

    allowed: float
    """The share by which the plan may be off."""
    value: Callable[[Step], int]
    side: Callable[[Step], GpuStep | CpuStep]
    parts: Parts


MEASURES: Mapping[DriftFigure, _Measure] = {
    "requested": _Measure(0.01, lambda step: step.gpu.peak_bytes, lambda step: step.gpu, gpu_parts),
    "reserved": _Measure(0.02, lambda step: step.gpu.peak_reserved_bytes or 0, lambda step: step.gpu, gpu_parts),
    "cpu": _Measure(0.01, lambda step: step.cpu.peak_bytes, lambda step: step.cpu, cpu_parts),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """All that differs in one job."""

    steps: int
    worst: tuple[DriftWorst, ...]
    off: tuple[DriftStep, ...]
    only_rehearsed: tuple[str, ...]
    only_planned: tuple[str, ...]
    collected_bytes: int


NOTHING_COMPARED = Compared(steps=0, worst=(), off=(), only_rehearsed=(), only_planned=(), collected_bytes=0)


def compare_steps(rehearsed: Plan, planned: Plan) -> Compared:
    """The steps that both have, figure by figure, and the names of those that one side has alone."""
    ones, others = dict(_numbered(rehearsed.steps)), dict(_numbered(planned.steps))
    both = [(one, others[key]) for key, one in ones.items() if key in others]
    before = [None, *both[:-1]]
    return Compared(
        steps=len(both),
        worst=tuple(
            DriftWorst(figure=figure, share=max((_share(figure, *pair) for pair in both), key=abs, default=0.0),
                       allowed=measure.allowed)
            for figure, measure in MEASURES.items()
        ),
        off=tuple(
            _step_off(figure, *pair)
            for pair, last in zip(both, before, strict=False)
            for figure in _figures_off(*pair)
            if figure != "reserved" or last is None or _grew(pair, last)
        ),
        only_rehearsed=tuple(where(step) for key, step in ones.items() if key not in others),
        only_planned=tuple(where(step) for key, step in others.items() if key not in ones),
        collected_bytes=max((_collected(*pair) for pair in both), default=0),
    )  # fmt: skip


def where(step: Step | DriftStep) -> str:
    """The step in a few words: `2/3 compress`, with the modifier where it is not in a subgraph."""
    return f"{step.subgraph}/{step.of} {step.phase}" if step.subgraph else step.phase


def _numbered(steps: Sequence[Step]) -> Iterator[tuple[Key, Step]]:
    """Each step that is compared, by what makes it the same on both sides; a recipe may have a modifier twice."""
    seen: Counter[tuple[str | None, int | None, str]] = Counter()
    for step in steps:
        if step.phase not in NOT_COMPARED:
            key = step.modifier, step.subgraph, step.phase
            yield (*key, seen[key]), step
            seen[key] += 1


def _share(figure: DriftFigure, rehearsed: Step, planned: Step) -> float:
    """Planned by rehearsed, less one; 0 for trifles, and for what was collected."""
    one, two = MEASURES[figure].value(rehearsed), MEASURES[figure].value(planned)
    if figure == "cpu":
        two -= _collected(rehearsed, planned)
    return 0.0 if abs(two - one) <= TRIFLE else two / max(1, one) - 1


def _collected(rehearsed: Step, planned: Step) -> int:
    """Bytes that the rehearsal lacks on the CPU, of that kind at most, and not of another part of the peak."""
    lacks = planned.cpu.peak_bytes - rehearsed.cpu.peak_bytes
    of_part = [cpu_parts(step.cpu.by_kind)["other"] for step in (planned, rehearsed)]
    return max(0, min(lacks, of_part[0] - of_part[1], planned.cpu.by_kind.get(COLLECTED, 0)))


def _figures_off(rehearsed: Step, planned: Step) -> Iterator[DriftFigure]:
    for figure, measure in MEASURES.items():
        if abs(_share(figure, rehearsed, planned)) > measure.allowed:
            yield figure


def _grew(pair: Pair, last: Pair) -> bool:
    """A side reserves other than in the step before; segments stay, so otherwise the step only shows what was."""
    return any(one.gpu.peak_reserved_bytes != two.gpu.peak_reserved_bytes for one, two in zip(pair, last, strict=True))


def _step_off(figure: DriftFigure, rehearsed: Step, planned: Step) -> DriftStep:
    measure = MEASURES[figure]
    one, two = measure.side(rehearsed), measure.side(planned)
    part, ours, theirs = _blamed(measure, figure, rehearsed, planned)
    reserved_alone = figure == "reserved" and "requested" not in _figures_off(rehearsed, planned)
    return DriftStep(
        modifier=rehearsed.modifier,
        subgraph=rehearsed.subgraph,
        of=rehearsed.of,
        phase=rehearsed.phase,
        unit=rehearsed.unit,
        figure=figure,
        rehearsed_bytes=measure.value(rehearsed),
        planned_bytes=measure.value(planned),
        part="" if reserved_alone else PART_NAMES[part],
        part_rehearsed_bytes=0 if reserved_alone else ours,
        part_planned_bytes=0 if reserved_alone else theirs,
        held=() if reserved_alone else _named(one, measure, part),
        planned=() if reserved_alone else _named(two, measure, part),
        cited=RESERVED_CITED if reserved_alone else cited(rehearsed.modifier, _kinds(one, two, measure, part)),
    )


def _blamed(measure: _Measure, figure: DriftFigure, rehearsed: Step, planned: Step) -> tuple[str, int, int]:
    """The part that differs most in the direction in which the peaks do, with what each side has of it."""
    requested = "requested" if figure == "reserved" else figure
    change = MEASURES[requested].value(planned) - MEASURES[requested].value(rehearsed)
    ones, twos = measure.parts(measure.side(rehearsed).by_kind), measure.parts(measure.side(planned).by_kind)
    part = max(ones, key=lambda name: (twos[name] - ones[name]) * (1 if change >= 0 else -1))
    return part, ones[part], twos[part]


def _kinds(rehearsed: GpuStep | CpuStep, planned: GpuStep | CpuStep, measure: _Measure, part: str) -> list[str]:
    """The kinds within this part that differ by at least a tenth of what the one that differs most does."""
    ones, twos = rehearsed.by_kind, planned.by_kind
    change = {kind: abs(twos.get(kind, 0) - ones.get(kind, 0)) for kind in {**twos, **ones}}
    change = {kind: size for kind, size in change.items() if measure.parts({kind: 1}).get(part)}
    return [kind for kind, size in change.items() if 10 * size >= max(change.values())]


def _named(side: GpuStep | CpuStep, measure: _Measure, part: str) -> tuple[str, ...]:
    """The largest holdings of this part; a rehearsal's without the line of the script, which is planner's own."""
    found = [each for each in side.largest if measure.parts({each.kind: 1})[part]][:SHOWN]
    return tuple(each.owner.replace(f" {each.role}", "") if _is_script(each) else each.owner for each in found)


def _is_script(holding: Owned) -> bool:
    return holding.role.startswith("from oneshot.py:")
