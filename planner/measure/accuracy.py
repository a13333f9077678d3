"""Compares a plan with a measurement of the same job: every figure that both have, step by step. Pure."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Literal

from pydantic import Field, computed_field

from planner.compress.parts import PART_NAMES, gpu_parts
from planner.compress.schema import Plan, Step
from planner.measure.record import MeasuredStep, Measurement
from planner.records import Record
from planner.units import MIB

FigureName = Literal["gpu_requested", "gpu_allocated", "gpu_reserved", "gpu_device", "cpu_tensors", "cpu_process"]

# The plan's figure, the measured one, and its title. A new figure of the plan is a new line here.
Planned = Callable[[Step, Plan], int | None]
Measured = Callable[[MeasuredStep, int], int | None]
FIGURES: dict[FigureName, tuple[str, Planned, Measured]] = {
    "gpu_requested": (
        "GPU requested",
        lambda step, _plan: step.gpu.peak_bytes,
        lambda step, _base: None if step.running else step.gpu.requested_bytes,
    ),
    "gpu_allocated": (
        "GPU allocated",
        lambda step, _plan: step.gpu.peak_allocated_bytes,
        lambda step, _base: step.gpu.allocated_bytes,
    ),
    "gpu_reserved": (
        "GPU reserved",
        lambda step, _plan: step.gpu.peak_reserved_bytes,
        lambda step, _base: step.gpu.reserved_bytes,
    ),
    "gpu_device": (
        "GPU in use, whole card",
        lambda step, plan: _device_total(step, plan),
        lambda step, _base: step.gpu.device_bytes,
    ),
    "cpu_tensors": ("CPU tensors", lambda step, _plan: step.cpu.peak_bytes, lambda step, _base: step.cpu.tensor_bytes),
    "cpu_process": (
        "CPU process less its start",
        lambda step, _plan: step.cpu.peak_bytes,
        lambda step, base: None if step.cpu.rss_bytes is None else step.cpu.rss_bytes - base,
    ),
}
# Measured figures that a plan without the allocator does not have; reports show them, so that nobody takes such a plan
# for the whole card.
UNPLANNED: dict[str, tuple[str, Callable[[MeasuredStep], int | None]]] = {
    "gpu_reserved": ("GPU reserved", lambda step: step.gpu.reserved_bytes),
    "gpu_device": ("GPU in use, whole card", lambda step: step.gpu.device_bytes),
}
SHARE = 0.01
SLACK = 4 * MIB
"""Bytes. Steps that differ by less count as equal: small tensors come and go with library versions."""
NEAR = 0.1
"""An owner explains a difference when it is within this share of it."""


class Pair(Record):
    """One figure of one step, or of the whole job."""

    where: str
    phase: str = ""
    planned: int
    measured: int

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented form
    @property
    def difference(self) -> int:
        """Bytes that the plan has too much (negative: too few)."""
        return self.planned - self.measured

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented form
    @property
    def ratio(self) -> float:
        """Planned / measured."""
        if self.measured <= 0:
            return 1.0 if self.planned <= 0 else float("inf")
        return self.planned / self.measured

    @property
    def is_equal(self) -> bool:
        """Whether the two differ by no more than SHARE of the measured figure, or SLACK."""
        return abs(self.difference) <= max(self.measured * SHARE, SLACK)


class Figure(Record):
    """One figure over the whole job."""

    name: FigureName
    title: str
    peak: Pair
    worst: Pair | None = Field(description="the step furthest off, of those that differ by more than 4 MiB")
    median_ratio: float
    steps: int
    equal: int = Field(description="steps within 1 % or 4 MiB")
    pairs: tuple[Pair, ...]


class Unplanned(Record):
    """The peak of a figure that is measured and that plans do not have."""

    name: str
    title: str
    peak_bytes: int
    where: str


class Suspect(Record):
    """Why steps differ: what the plan has too much, or what it lacks."""

    phase: str
    steps: int
    difference: int = Field(description="planned less measured, at the step furthest off")
    where: str
    text: str


class JobAccuracy(Record):
    """One measurement beside the plan of the same job."""

    file: str
    model: str
    recipe: str
    source: str
    card: str
    complete: bool
    stopped: str | None
    figures: tuple[Figure, ...]
    unplanned: tuple[Unplanned, ...]
    suspects: tuple[Suspect, ...]
    notes: tuple[str, ...]


class Accuracy(Record):
    """Several jobs; what `planner accuracy --format json` prints."""

    schema_version: Literal[1] = 1
    jobs: tuple[JobAccuracy, ...]


def compare(plan: Plan, measurement: Measurement, file: str = "") -> JobAccuracy:
    """Compare the plan of a measured job with the measurement. A note names measured steps that the plan lacks."""
    matches, missing = match_steps(plan, measurement)
    base = measurement.host.baseline_rss_bytes or 0
    names = [name for name in FIGURES if name != "cpu_process" or base]
    figures = [figure for name in names if (figure := _figure(name, plan, matches, base)) is not None]
    have = {figure.name for figure in figures}
    return JobAccuracy(
        file=file,
        model=plan.model.name,
        recipe=plan.recipe,
        source=measurement.source,
        card=measurement.card.name if measurement.card else "no accelerator",
        complete=measurement.complete,
        stopped=measurement.stopped,
        figures=tuple(figures),
        unplanned=tuple(each for each in _unplanned(measurement) if each.name not in have),
        suspects=tuple(_suspects(plan, matches)),
        notes=(*_notes(plan, measurement, missing), *measurement.notes),
    )


# ---------------------------------------------------------------------- which step is which

Match = tuple[tuple[Step, ...], MeasuredStep]


def match_steps(plan: Plan, measurement: Measurement) -> tuple[list[Match], list[MeasuredStep]]:
    """Each measured step with the plan's steps of that name, and the measured steps that the plan lacks.

    A measured step has several steps of the plan where the measurement is coarser: a setup without a prepare of its
    own covers more of the plan (`_whole_setup`); a running peak covers everything up to its step.
    """
    measured = [step for step in measurement.steps if not step.partial]
    has_prepare = any(step.phase == "prepare" for step in measured)
    runs = _numbered([(s.modifier, s.subgraph, s.phase) for s in plan.steps])
    planned = dict(zip(runs, plan.steps, strict=True))
    matches: list[Match] = []
    missing: list[MeasuredStep] = []
    for key, step in zip(_numbered([_key(step, plan) for step in measured]), measured, strict=True):
        planned_step = planned.get(key)
        if planned_step is None:
            missing.append(step)
        elif step.running:
            matches.append((plan.steps[: planned_step.index + 1], step))
        elif step.phase == "setup" and not has_prepare:
            matches.append((_whole_setup(plan, planned_step), step))
        else:
            matches.append(((planned_step,), step))
    return matches, missing


def _whole_setup(plan: Plan, setup: Step) -> tuple[Step, ...]:
    """The plan's steps that a measured setup covers where no prepare was measured: all up to the first batch."""
    after = plan.steps[setup.index + 1]
    return (setup, *((after,) if after.phase == "prepare" else ()))


def _key(step: MeasuredStep, plan: Plan) -> tuple[str | None, int | None, str]:
    """Modifier, subgraph, phase. A log knows the layer's name, and not always the subgraph's number."""
    if step.subgraph is None and step.running:
        of_it = (s for s in plan.steps if s.phase == step.phase and step.unit in s.unit.split(", "))
        if (same := next(of_it, None)) is not None:
            return same.modifier, same.subgraph, same.phase
    return step.modifier, step.subgraph, step.phase


def _numbered(
    keys: Sequence[tuple[str | None, int | None, str]],
) -> list[tuple[str | None, int | None, str, int]]:
    """Each key with the number of equal keys before it: a recipe may have the same modifier twice."""
    counts: dict[object, int] = {}
    numbered = []
    for key in keys:
        counts[key] = counts.get(key, -1) + 1
        numbered.append((*key, counts[key]))
    return numbered


# ---------------------------------------------------------------------- figures


def _device_total(step: Step, plan: Plan) -> int | None:
    """Reserved and context; None where the allocator was not simulated."""
    reserved, context = step.gpu.peak_reserved_bytes, plan.gpu.context_bytes
    return None if reserved is None or context is None else reserved + context


def _figure(name: FigureName, plan: Plan, matches: Sequence[Match], base: int) -> Figure | None:
    title, planned, measured = FIGURES[name]
    values = [
        (max((figure for each in steps if (figure := planned(each, plan)) is not None), default=None), step)
        for steps, step in matches
    ]
    pairs = [
        Pair(where=_where(step), phase=step.phase, planned=ours, measured=max(value, 0))
        for ours, step in values
        if ours is not None and (value := measured(step, base)) is not None
    ]
    if not pairs:
        return None
    unequal = [pair for pair in pairs if abs(pair.difference) > SLACK]
    highest = max(pairs, key=lambda pair: pair.measured)
    return Figure(
        name=name,
        title=title,
        peak=Pair(where=highest.where, planned=max(pair.planned for pair in pairs), measured=highest.measured),
        worst=max(unequal, key=lambda pair: abs(pair.ratio - 1), default=None),
        median_ratio=median(pair.ratio for pair in pairs),
        steps=len(pairs),
        equal=sum(pair.is_equal for pair in pairs),
        pairs=tuple(pairs),
    )


def _where(step: MeasuredStep) -> str:
    place = f"{step.subgraph}/{step.of} {step.phase}" if step.subgraph else step.phase
    return place if step.unit == step.phase else f"{place} ({step.unit})"


def _unplanned(measurement: Measurement) -> Iterator[Unplanned]:
    for name, (title, value) in UNPLANNED.items():
        known = [(nbytes, step) for step in measurement.steps if (nbytes := value(step)) is not None]
        if known:
            peak, step = max(known, key=lambda pair: pair[0])
            yield Unplanned(name=name, title=title, peak_bytes=peak, where=_where(step))


# ---------------------------------------------------------------------- who is to blame


def _suspects(plan: Plan, matches: Sequence[Match]) -> Iterator[Suspect]:
    """One line for each phase and explanation, from the requested bytes or else the allocated ones."""
    groups: dict[tuple[str, str], list[tuple[int, MeasuredStep]]] = {}
    for planned_steps, step in matches:
        requested = step.gpu.requested_bytes
        measured_bytes = step.gpu.allocated_bytes if requested is None else requested
        if measured_bytes is None or step.running:
            continue
        planned = max(planned_steps, key=lambda each: each.gpu.peak_bytes)
        planned_bytes = planned.gpu.peak_allocated_bytes if requested is None else planned.gpu.peak_bytes
        pair = Pair(where="", planned=planned_bytes, measured=measured_bytes)
        if not pair.is_equal:
            text = _explanation(plan, planned, step, pair.difference)
            groups.setdefault((step.phase, text), []).append((pair.difference, step))
    for (phase, text), members in groups.items():
        difference, step = max(members, key=lambda member: abs(member[0]))
        yield Suspect(phase=phase, steps=len(members), difference=difference, where=_where(step), text=text)


def _explanation(plan: Plan, planned: Step, step: MeasuredStep, difference: int) -> str:
    if step.gpu.by_kind is not None:
        return _by_part(planned, step.gpu.by_kind, difference)
    return _by_size(plan, planned, difference)


def _by_part(planned: Step, measured: dict[str, int], difference: int) -> str:
    """Plan and measurement both have parts: name the one that differs most, in the direction of the difference."""
    planned_parts, measured_parts = gpu_parts(planned.gpu.by_kind), gpu_parts(measured)
    name = max(
        planned_parts, key=lambda part: (planned_parts[part] - measured_parts[part]) * (1 if difference > 0 else -1)
    )
    return f"{'too much' if difference > 0 else 'missing'}: {PART_NAMES[name]}"


def _by_size(plan: Plan, planned: Step, difference: int) -> str:
    """Only the total was measured: name an owner of about the size of the difference."""
    if difference > 0:
        near = _nearest(planned, difference)
        return f"too much: as if {near} were not there" if near else "too much: no one owner has this size"
    if near := _nearest(planned, -difference):
        return f"missing: as if {near} were there once more"
    before = plan.steps[planned.index - 1] if planned.index else None
    if before and (near := _nearest(before, -difference)):
        return f"missing: as if {near} of the step before were still held"
    return "missing: no owner that the plan knows has this size; libraries allocate inside C++ too"


def _nearest(step: Step, size: int) -> str | None:
    """The owner, or else the kind, whose bytes come closest to `size`, if close enough."""
    owners = [(f"one {owned.kind} like {owned.owner}", owned.bytes) for owned in step.gpu.largest]
    kinds = [(f"all of {kind}", count) for kind, count in step.gpu.by_kind.items()]
    close = [(abs(count - size), name) for name, count in (*owners, *kinds) if abs(count - size) <= NEAR * size]
    return min(close)[1] if close else None


# ---------------------------------------------------------------------- remarks


def _notes(plan: Plan, measurement: Measurement, missing: Sequence[MeasuredStep]) -> Iterator[str]:
    if missing:
        shown = ", ".join(_where(step) for step in missing[:5]) + (" …" if len(missing) > 5 else "")
        yield f"{len(missing)} measured steps are not in the plan: {shown}"
    library = measurement.versions.get("llmcompressor")
    if library and library != plan.llmcompressor:
        yield f"measured with llmcompressor {library}, planned for {plan.llmcompressor}"
    if retries := sum(step.gpu.retries for step in measurement.steps):
        yield f"the allocator had to give memory back {retries} times: the card was nearly full"
