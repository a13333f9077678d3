"""Plans beside measurements, as tables, JSON and markdown."""

from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import Group, RenderableType
from rich.text import Text

from planner.measure.accuracy import Accuracy, Figure, JobAccuracy, Pair
from planner.reports.drawing import draw, pairs, ruled_table
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import decimals_for, gib, number

TITLES = ("figure, in GiB", "planned", "measured", "ratio", "peak in", "worst step", "ratio", "median", "equal")
_RIGHT = (False, True, True, True, False, False, True, True, True)
_STEP_TITLES = ("step, in GiB", "planned", "measured", "ratio")
_STEP_RIGHT = (False, True, True, True)
_EQUAL = "equal: steps within 1 % or 4 MiB   ratio: planned / measured   1 GiB is 2^30 bytes"


def render(accuracy: Accuracy, *, steps: bool = False, width: int | None = None, color: bool = False) -> str:
    """One block per job: where the plan is right and where it is not. With `steps`, every step of every figure too."""
    parts: list[RenderableType] = []
    for job in accuracy.jobs:
        parts += [pairs(_header(job)), Text(), _table(TITLES, _RIGHT, _cells(job.figures))]
        if steps:
            for figure in job.figures:
                parts += [Text(), Text(figure.title, style="bold")]
                parts.append(_table(_STEP_TITLES, _STEP_RIGHT, _step_cells(figure)))
        parts += [Text(), pairs(_remarks(job)), Text()]
    parts.append(Text(_EQUAL, style="dim"))
    return draw(Group(*parts), width=width, color=color)


def render_markdown(accuracy: Accuracy, *, steps: bool = False) -> str:
    """The same as markdown, to paste."""
    return "\n\n".join(part for job in accuracy.jobs for part in _markdown(job, steps)) + "\n"


def formats(steps: bool = False) -> Formats[Accuracy]:
    """The forms of the report; `steps` adds every step of every figure to the tables. JSON always holds all."""
    return {
        "table": partial(render, steps=steps),
        "json": as_json,
        "markdown": everywhere(partial(render_markdown, steps=steps)),
    }


def _markdown(job: JobAccuracy, steps: bool) -> Iterator[str]:
    yield f"### {escape(job.model)}, {escape(job.recipe)}"
    yield "\n".join(f"- {name}: {text}" for name, text in _header(job)[2:])
    yield markdown_table(TITLES, _RIGHT, [[escape(cell) for cell in line] for line in _cells(job.figures)])
    if steps:
        for figure in job.figures:
            yield f"{figure.title}:"
            yield markdown_table(_STEP_TITLES, _STEP_RIGHT, [list(map(escape, line)) for line in _step_cells(figure)])
    if remarks := _remarks(job):
        yield "\n".join(f"- {name}: {text}" if name else f"- {text}" for name, text in remarks)


def _header(job: JobAccuracy) -> list[tuple[str, str]]:
    lines = [
        ("model", job.model),
        ("recipe", job.recipe),
        ("measured", f"{job.file or 'job'}, on {job.card} ({job.source})"),
    ]
    return lines if job.complete else [*lines, ("stopped", job.stopped or "not complete")]


def _cells(figures: Sequence[Figure]) -> list[list[str]]:
    return [_figure(figure) for figure in figures]


def _figure(figure: Figure) -> list[str]:
    worst = figure.worst
    return [
        figure.title,
        *_numbers(figure.peak),
        figure.peak.where,
        worst.where if worst else "none differs",
        ratio(worst.ratio) if worst else "-",
        ratio(figure.median_ratio),
        f"{figure.equal}/{figure.steps}",
    ]


def _step_cells(figure: Figure) -> list[list[str]]:
    return [[pair.where, *_numbers(pair)] for pair in figure.pairs]


def _numbers(pair: Pair) -> list[str]:
    decimals = decimals_for(max(pair.planned, pair.measured))
    return [number(pair.planned, decimals), number(pair.measured, decimals), ratio(pair.ratio)]


def ratio(value: float) -> str:
    """The ratio with three decimals; `-` where something was planned and nothing measured."""
    return "-" if value == float("inf") else f"{value:.3f}"


def _remarks(job: JobAccuracy) -> list[tuple[str, str]]:
    lines = [
        (
            f"{suspect.text} ({suspect.phase}, {suspect.steps} step{'s' * (suspect.steps > 1)}, "
            f"{gib(abs(suspect.difference))} at most, in {suspect.where})"
        )
        for suspect in job.suspects
    ]
    remarks = [("suspects" if place == 0 else "", text) for place, text in enumerate(lines)]
    remarks += [("not planned", f"{u.title}: {gib(u.peak_bytes)} in {u.where}") for u in job.unplanned]
    return [*remarks, *(("note", note) for note in job.notes)]


def _table(titles: Sequence[str], right: Sequence[bool], cells: Sequence[Sequence[str]]) -> RenderableType:
    table = ruled_table()
    for title, is_number in zip(titles, right, strict=True):
        table.add_column(title, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    return table
