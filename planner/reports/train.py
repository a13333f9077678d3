"""What training takes: a table for people, markdown to paste, JSON for programs."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.reports.drawing import draw, pairs, ruled_table
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import decimals_for, gib
from planner.training.schema import Moment, TrainingChoice, TrainingPlan
from planner.units import GIB

_PARTS = ("part of one GPU, in GiB", "GPU", "")
_CHOICES = ("sharding", "offload", "GPU", "node RAM", "NVMe", "")
_LEGEND = "1 GiB is 2^30 bytes   RAM and NVMe: of one node, for what is offloaded"


def render(plan: TrainingPlan, *, width: int | None = None, color: bool = False) -> str:
    """Header, parts at the highest moment, table of choices, verdict and notes."""
    parts = _table(_PARTS, (False, True, False), list(_part_cells(plan.per_gpu)))
    choices = _table(_CHOICES, (False, False, True, True, True, False), list(_choice_cells(plan)))
    content: list[RenderableType] = [
        pairs(_header(plan)),
        Text(),
        parts,
        Text(),
        choices,
        Text(_LEGEND, style="dim"),
        Text(),
    ]
    return draw(Group(*content, pairs(list(_answers(plan)))), width=width, color=color)


def render_markdown(plan: TrainingPlan) -> str:
    """The same in markdown."""
    head = "\n".join(f"- {name}: {escape(text)}" if name else f"  {escape(text)}" for name, text in _header(plan))
    parts = markdown_table(_PARTS, (False, True, False), [_escaped(line) for line in _part_cells(plan.per_gpu)])
    choices = markdown_table(
        _CHOICES, (False, False, True, True, True, False), [_escaped(line) for line in _choice_cells(plan)]
    )
    last = "\n".join(f"- {name}: {text}" if name else f"- {text}" for name, text in _answers(plan))
    title = f"### {escape(plan.model.name)}, training, {plan.options.method}"
    return "\n\n".join((title, head, parts, choices, last)) + "\n"


# Header


def _header(plan: TrainingPlan) -> list[tuple[str, str]]:
    model, options = plan.model, plan.options
    trained = f"{model.trained_parameters:,} trained, {model.trained_percent:.4g} %"
    return [
        ("model", f"{model.name} ({model.architecture}), {model.parameters:,} parameters, {trained}"),
        ("training", f"{_method(plan)}, {options.optimizer}, {options.precision}"),
        (
            "step",
            f"{options.batch_size} x {options.seq_len:,} tokens on each GPU, {_accumulation(plan)}{_attention(plan)}",
        ),
        ("on", _hardware(plan)),
    ]


def _method(plan: TrainingPlan) -> str:
    options = plan.options
    return "all weights" if options.method == "full" else f"{options.method}, rank {options.rank}, {options.targets}"


def _accumulation(plan: TrainingPlan) -> str:
    count = plan.options.grad_accumulation
    return f"{count} forwards a step, " if count > 1 else ""


def _attention(plan: TrainingPlan) -> str:
    return f"{plan.options.attention} attention, checkpointing {plan.activations.checkpointing}"


def _hardware(plan: TrainingPlan) -> str:
    options = plan.options
    name = "GPU" if plan.gpu_name is None else f"{plan.gpu_name} ({gib(plan.gpu_memory_bytes or 0)})"
    offload = "" if options.offload == "none" else f", {options.offload} offloaded to {options.offload_to}"
    return f"{options.gpus} x {name}, sharding {options.sharding}{offload}"


# Tables


def _table(titles: Sequence[str], right: Sequence[bool], body: Sequence[Sequence[str]]) -> Table:
    table = ruled_table()
    for title, number in zip(titles, right, strict=True):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for line in body:
        table.add_row(*(Text(cell) for cell in line))
    return table


def _escaped(line: Sequence[str]) -> list[str]:
    return [escape(cell) for cell in line]


def _part_cells(moment: Moment) -> Iterator[tuple[str, str, str]]:
    decimals = decimals_for(moment.total_bytes)
    for part in moment.parts:
        yield part.name, f"{part.bytes / GIB:,.{decimals}f}", part.source
    yield f"total, {moment.name}", f"{moment.total_bytes / GIB:,.{decimals}f}", ""


def _choice_cells(plan: TrainingPlan) -> Iterator[tuple[str, ...]]:
    """Cells of the choices that are offered; for each of the others JSON has a note."""
    offered = [choice for choice in plan.choices if choice.per_gpu_bytes is not None]
    for _, group in groupby(offered, key=lambda choice: choice.sharding):
        for choice in group:
            yield (_name(plan, choice), _offload(choice), *map(_cell, _sizes(choice)), _verdict(choice))


def _sizes(choice: TrainingChoice) -> tuple[int | None, ...]:
    return choice.per_gpu_bytes, choice.node_ram_bytes, choice.node_nvme_bytes


def _name(plan: TrainingPlan, choice: TrainingChoice) -> str:
    options = plan.options
    same = choice.sharding == options.sharding and choice.offload == options.offload
    return f"{choice.sharding} *" if same and choice.offload_to in (None, options.offload_to) else choice.sharding


def _offload(choice: TrainingChoice) -> str:
    return "-" if choice.offload == "none" else f"{choice.offload} to {choice.offload_to}"


def _cell(count: int | None) -> str:
    return f"{count / GIB:,.2f}" if count else "-"


def _verdict(choice: TrainingChoice) -> str:
    return "" if choice.fits is None else "fits" if choice.fits else "too large"


# Answers


def _answers(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    yield "per GPU", f"{gib(plan.per_gpu.total_bytes)} in the {_when(plan, plan.per_gpu)}"
    for moment in plan.moments:
        if moment.name != plan.per_gpu.name:
            yield "", f"{gib(moment.total_bytes)} in the {_when(plan, moment)}"
    yield "kept", f"{gib(plan.activations.kept_bytes)} of activations between forward and backward, traced"
    for name, memory in (("node RAM", plan.node_ram), ("node NVMe", plan.node_nvme)):
        if memory.parts:
            held = ", ".join(f"{part.name} {gib(part.bytes)}" for part in memory.parts)
            yield name, f"{gib(memory.total_bytes)}: {held}"
    if plan.fits is not None:
        yield "verdict", _fit_line(plan)
    if plan.rule is not None:
        low, high = gib(plan.rule["lower"]), gib(plan.rule["upper"])
        yield "rule", f"{low} to {high} by the parameter guide (multiples of the weights, without activations)"
    for position, note in enumerate(plan.notes):
        yield "" if position else "notes", note


def _when(plan: TrainingPlan, moment: Moment) -> str:
    """The moment's name; at the highest moment also the layer."""
    return f"{moment.name}, in the {plan.activations.highest}" if moment == plan.moments[0] else moment.name


def _fit_line(plan: TrainingPlan) -> str:
    memory, total = plan.gpu_memory_bytes or 0, plan.per_gpu.total_bytes
    if plan.fits:
        return f"fits, {gib(memory - total)} left"
    return f"does not fit: {gib(total - memory)} too much; {plan.advice}"


FORMATS: Formats[TrainingPlan] = {"table": render, "json": as_json, "markdown": everywhere(render_markdown)}
