"""What a model-free job takes: a table for people, markdown to paste, JSON for programs."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from planner.hints import few
from planner.modelfree.schema import FileUse, ModelFreePlan
from planner.reports.demands import answer_line, demand_line, machine_line
from planner.reports.drawing import draw, pairs, ruled_table
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import decimals_for, gib, number, smallest_shown
from planner.units import format_bytes

_PARTS: Mapping[str, str] = {
    "originals": "originals",
    "results": "results",
    "compressed": "results",
    "converted": "results",
    "weight copies": "copy",
    "scales": "work",
    "temporaries": "work",
    "cuda_workspace": "work",
}
"""Column of each kind."""
_COLUMNS = ("originals", "results", "copy", "work")
_TITLES = ("file", "weights", "reads", "peak", *_COLUMNS, "estimate", "saves")
_RIGHT = (False, *[True] * (len(_TITLES) - 1))
_LEGEND = (
    "GiB (2^30 bytes) of one file   peak: on the device, with what it is made of   copy: of the weight in work   "
    "estimate: the library's own, by which it schedules"
)


def render(plan: ModelFreePlan, *, width: int | None = None, color: bool = False) -> str:
    """Verdict, header, a line for each kind of file, what card, RAM and disk must have, notes."""
    table = ruled_table()
    for title, right in zip(_TITLES, _RIGHT, strict=True):
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for line in _lines(plan):
        table.add_row(*map(Text, line))
    content: list[RenderableType] = [pairs(_head(plan)), Text(), table, Text(_LEGEND, style="dim"), Text()]
    return draw(Group(*content, pairs(list(_answers(plan)))), width=width, color=color)


def render_markdown(plan: ModelFreePlan) -> str:
    """The same in markdown."""
    head = "\n".join(f"- {name}: {escape(text)}" if name else f"  {escape(text)}" for name, text in _head(plan))
    table = markdown_table(_TITLES, _RIGHT, [[escape(cell) for cell in line] for line in _lines(plan)])
    last = "\n".join(f"- {name}: {text}" if name else f"  {text}" for name, text in _answers(plan))
    return "\n\n".join((f"### {escape(plan.model)}, {escape(plan.scheme)}", head, table, last)) + "\n"


def _head(plan: ModelFreePlan) -> list[tuple[str, str]]:
    fails = next((note.text for note in plan.notes if note.kind == "fails"), None)
    lines: list[tuple[str, str]] = []
    if plan.fits is not None:
        lines.append(("fits", answer_line(plan.fits, plan.demands, fails)))
    elif fails:
        lines.append(("fails", fails))
    files = f"{len(plan.files)} file{'s' * (len(plan.files) != 1)}"
    converter = f", after {plan.converter}" if plan.converter else ""
    workers = f"{plan.max_workers} worker{'s' * (plan.max_workers != 1)}"
    lines += [
        ("model", f"{plan.model}, {format_bytes(plan.checkpoint_bytes, 'GB')} in {files}"),
        (
            "job",
            f"model_free_ptq, {plan.scheme}{converter}, {plan.quantized:,} weights, {workers} on the {_device(plan)}",
        ),
    ]
    if plan.ignore:
        lines.append(("", f"ignores {few(plan.ignore, 6)}"))
    if plan.machine is not None:
        lines.append(("machine", machine_line(plan.machine)))
    return [*lines, ("", f"llmcompressor {plan.llmcompressor_version}")]


def _device(plan: ModelFreePlan) -> str:
    return "GPU" if plan.device == "gpu" else "CPU"


def _lines(plan: ModelFreePlan) -> Iterator[list[str]]:
    """Files that are alike and follow each other are one line."""
    decimals = decimals_for(max(max(each.peak_bytes, each.loaded_bytes) for each in plan.files))
    for _, group in groupby(plan.files, key=_alike):
        files = list(group)
        first, many = files[0], len(files)
        parts = dict.fromkeys(_COLUMNS, 0)
        for kind, size in first.parts.items():
            parts[_PARTS.get(kind, "work")] += size
        stem = first.file.removesuffix(".safetensors")
        name = stem if many == 1 else f"{stem} and {many - 1} more"
        sizes = (first.loaded_bytes, first.peak_bytes, *parts.values(), first.estimate_bytes, first.saved_bytes)
        yield [name, f"{first.quantized:,}", *(number(size, decimals) for size in sizes)]


def _alike(use: FileUse) -> object:
    return use.quantized, use.loaded_bytes, use.peak_bytes, tuple(use.parts.items()), use.estimate_bytes


def _answers(plan: ModelFreePlan) -> Iterator[tuple[str, str]]:
    gpu, host, disk = plan.gpu, plan.host, plan.disk
    if gpu is not None:
        many = f"{gpu.files_at_once} files at a time" if gpu.files_at_once > 1 else "one file at a time"
        yield "GPU", f"{gib(gpu.requested_bytes)} requested by {many}, {gib(gpu.reserved_bytes)} reserved"
        yield "", f"{gib(gpu.device_total_bytes)} with the CUDA context; {_named(gpu.parts)}"
        yield "", f"smallest card: {gib(gpu.smallest_card_bytes)}, one file at a time"
    yield "RAM", f"{gib(host.resident_bytes)} resident; below {gib(host.must_have_bytes)} the job is killed"
    yield "", _named(host.parts)
    saved = f"{disk.safetensors_bytes:,} bytes of safetensors"
    yield "disk", f"reads {format_bytes(disk.read_bytes, 'GB')}, writes {format_bytes(disk.written_bytes, 'GB')}"
    yield (
        "saved",
        f"{saved} ({format_bytes(disk.safetensors_bytes, 'GB')}) in {disk.files} file{'s' * (disk.files != 1)}",
    )
    for position, demand in enumerate(plan.demands):
        yield "" if position else "needs", f"{demand.resource} {demand_line(demand)}"
    for position, note in enumerate(plan.notes):
        yield "" if position else "notes", note.text


def _named(parts: Mapping[str, int]) -> str:
    ordered: Sequence[tuple[str, int]] = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {gib(size)}" for name, size in ordered if size >= smallest_shown(3))


FORMATS: Formats[ModelFreePlan] = {"table": render, "json": as_json, "markdown": everywhere(render_markdown)}
