"""What another release does otherwise, as a table, JSON and markdown."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from planner.drift.compare import where
from planner.drift.schema import Drift, DriftOfJob, DriftStep
from planner.hints import few
from planner.reports.drawing import draw, pairs, ruled_table
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import gib
from planner.units import human_bytes

TITLES = ("job", "steps", "requested", "reserved", "CPU", "")
RIGHT = (False, True, True, True, True, False)
WORDS = {"requested": "requested", "reserved": "reserved", "cpu": "CPU"}
EXPLAINED = (
    "planned by rehearsed, less 1, at the step furthest off; allowed are 1 % (requested, CPU) and 2 % (reserved), "
    "and 4 MiB   1 GiB is 2^30 bytes"
)


def render(drift: Drift, *, width: int | None = None, color: bool = False) -> str:
    """One line per job, and for each that is off the steps, what holds the memory there, and what the plan follows."""
    table = ruled_table()
    for title, is_number in zip(TITLES, RIGHT, strict=True):
        table.add_column(title, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for job in drift.jobs:
        table.add_row(*(Text(cell) for cell in _cells(job)), style="bold yellow" if job.is_off else None)
    parts: list[RenderableType] = [pairs(_header(drift)), Text(), table, Text(EXPLAINED, style="dim")]
    for job in drift.jobs:
        if job.is_off or job.collected_bytes:
            parts += [Text(), Text(_title(job), style="bold"), *_blocks(job)]
    return draw(Group(*parts, Text(), Text(_answer(drift))), width=width, color=color)


def render_markdown(drift: Drift) -> str:
    """The same as markdown, to paste."""
    parts = ["\n".join(f"- {name}: {text}" for name, text in _header(drift))]
    parts.append(markdown_table(TITLES, RIGHT, [[escape(cell) for cell in _cells(job)] for job in drift.jobs]))
    for job in drift.jobs:
        if job.is_off or job.collected_bytes:
            parts += [f"### {escape(_title(job))}", *_remarks_markdown(job)]
    return "\n\n".join([*parts, _answer(drift)]) + "\n"


FORMATS: Formats[Drift] = {"table": render, "json": as_json, "markdown": everywhere(render_markdown)}


def _header(drift: Drift) -> list[tuple[str, str]]:
    return [
        ("rehearsed", ", ".join(f"{name} {version}" for name, version in drift.versions.items())),
        (
            "planned",
            f"for llmcompressor {drift.planned_for}, traced with "
            + ", ".join(f"{name} {version}" for name, version in drift.planned_with.items()),
        ),
    ]


def _cells(job: DriftOfJob) -> list[str]:
    shares = [f"{each.share:+.2%}" for each in job.worst] or ["-", "-", "-"]
    return [job.name, str(job.steps), *shares, _outcome(job)]


def _outcome(job: DriftOfJob) -> str:
    if job.stopped:
        return "stopped"
    return "off" if job.is_off else "as planned"


def _title(job: DriftOfJob) -> str:
    return f"{job.name}: {job.model}, {job.recipe}, {job.options}"


def _blocks(job: DriftOfJob) -> Iterator[RenderableType]:
    for steps in _grouped(job.off):
        yield Text(_line(steps))
        yield pairs([("   " + name, text) for name, text in _why(steps)])
    if remarks := _remarks(job):
        yield pairs(remarks)


def _remarks_markdown(job: DriftOfJob) -> Iterator[str]:
    for steps in _grouped(job.off):
        lines = [f"- {escape(_line(steps))}", *(f"  - {name}: {escape(text)}" for name, text in _why(steps))]
        yield "\n".join(lines)
    if remarks := _remarks(job):
        yield "\n".join(f"- {name}: {escape(text)}" for name, text in remarks)


def _grouped(steps: Sequence[DriftStep]) -> list[list[DriftStep]]:
    """Steps that are off in the same way: one phase, one figure, one part, one direction."""
    groups: dict[tuple[object, ...], list[DriftStep]] = {}
    for step in steps:
        key = step.modifier, step.phase, step.figure, step.part, step.ratio > 1
        groups.setdefault(key, []).append(step)
    return list(groups.values())


def _furthest(steps: Sequence[DriftStep]) -> DriftStep:
    return max(steps, key=lambda step: abs(step.planned_bytes - step.rehearsed_bytes))


def _line(steps: Sequence[DriftStep]) -> str:
    """Which steps, and how far off the furthest is."""
    worst = _furthest(steps)
    names = few([where(step) for step in [worst, *(step for step in steps if step is not worst)]], 3)
    return (
        f"{names}: {WORDS[worst.figure]} {gib(worst.rehearsed_bytes)}, "
        f"planned {gib(worst.planned_bytes)} ({worst.ratio - 1:+.1%})"
    )


def _why(steps: Sequence[DriftStep]) -> Iterator[tuple[str, str]]:
    worst = _furthest(steps)
    if worst.part:
        yield worst.part, f"{gib(worst.part_rehearsed_bytes)}, planned {gib(worst.part_planned_bytes)}"
    if worst.held:
        yield "there", "; ".join(worst.held)
    if worst.planned:
        yield "planned", "; ".join(worst.planned)
    if worst.cited:
        yield "follows", "; ".join(worst.cited)


def _remarks(job: DriftOfJob) -> list[tuple[str, str]]:
    collected = f"{human_bytes(job.collected_bytes)} of transforms' matrices, which the plan counts to the end"
    remarks = [
        ("stopped", job.stopped or ""),
        ("collected by then", collected if job.collected_bytes else ""),
        ("steps of this release alone", few(job.only_rehearsed, 5)),
        ("steps of the plan alone", few(job.only_planned, 5)),
    ]
    return [(name, text) for name, text in remarks if text]


def _answer(drift: Drift) -> str:
    off = [job.name for job in drift.jobs if job.is_off]
    if not off:
        return f"Plans hold for this release: {len(drift.jobs)} jobs are as planned."
    return f"{len(off)} of {len(drift.jobs)} jobs are not as planned: {', '.join(off)}."
