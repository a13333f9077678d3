"""The lines of a plan's table as records, the same for every format."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from planner.compress.parts import PARTS, cpu_parts, gpu_parts
from planner.compress.schema import Plan, Step
from planner.compress.verdicts import runs_out
from planner.reports.folding import Fold, fold, nearly_folded, unfolded
from planner.reports.forms import StepsShown

TITLES: Mapping[str, str] = {
    "weights": "weights",
    "activations": "activ.",
    "hessians": "Hessian",
    "workspace": "workspace",
    "observers": "observer",
    "cache": "cache",
    "other": "other",
}
"""Of the columns of parts."""
SHORT_TITLES: Mapping[str, str] = {
    **TITLES,
    "weights": "weight",
    "hessians": "Hess.",
    "workspace": "work",
    "observers": "obs.",
}
"""The same where there is little room; the legend says what is short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: a phase of one unit, or of `count` equal units."""

    run: int
    modifier: str
    label: str
    """Name of the unit or units in their first line, their number in the second, then an empty text."""
    count: int
    phase: str
    """Empty where the label says it (setup, save)."""
    exact: bool
    gpu: int
    """The highest GPU peak of the units, in bytes."""
    gpu_parts: Mapping[str, int]
    cpu: int
    """The highest CPU peak of the units, in bytes: it may grow from one unit to the next."""
    cpu_parts: Mapping[str, int]
    is_gpu_peak: bool
    is_cpu_peak: bool
    runs_out: bool


def rows(plan: Plan, steps: StepsShown = "folded") -> list[Row]:
    """The table's lines in time order."""
    cut = {"folded": nearly_folded, "distinct": fold, "all": unfolded}[steps]
    return [row for each in cut(plan.steps) for row in _fold_rows(plan, each)]


def gpu_columns(lines: Sequence[Row], least: int = 1) -> list[str]:
    """The GPU parts of which some line has at least `least` bytes: a column of zeros says nothing."""
    return [name for name in PARTS if any(line.gpu_parts[name] >= least for line in lines)]


def cpu_columns(lines: Sequence[Row], least: int = 1) -> list[str]:
    """The CPU parts of which some line has at least `least` bytes."""
    return [name for name in PARTS if any(line.cpu_parts[name] >= least for line in lines)]


def _fold_rows(plan: Plan, fold: Fold) -> Iterable[Row]:
    phases = list(fold.phases())
    for steps, text in zip(phases, _labels(fold, len(phases)), strict=True):
        yield _row(plan, fold, steps, text)


def _labels(fold: Fold, lines: int) -> list[str]:
    """The label before each phase: the name, then how many units it stands for."""
    if fold.count == 1:
        return [fold.label, *[""] * (lines - 1)]
    alike = f"({fold.count} alike)" if fold.is_alike else f"(highest of {fold.count})"
    return [f"{fold.label} {alike}"] if lines == 1 else [fold.label, f"  {alike}", *[""] * (lines - 2)]


def _row(plan: Plan, fold: Fold, steps: tuple[Step, ...], text: str) -> Row:
    step = max(steps, key=lambda step: step.gpu.peak_bytes)
    highest = max(steps, key=lambda step: step.cpu.peak_bytes)
    return Row(
        run=fold.run,
        modifier=step.modifier or "",
        label=text,
        count=fold.count,
        phase="" if step.phase == step.unit else step.phase,
        exact=all(each.exact for each in steps),
        gpu=step.gpu.peak_bytes,
        gpu_parts=gpu_parts(step.gpu.by_kind),
        cpu=highest.cpu.peak_bytes,
        cpu_parts=cpu_parts(highest.cpu.by_kind),
        is_gpu_peak=bool(plan.gpu.peak_bytes) and any(each.index == plan.gpu.peak_step for each in steps),
        is_cpu_peak=any(each.index == plan.cpu.peak_step for each in steps),
        runs_out=any(runs_out(each, plan) for each in steps),
    )
