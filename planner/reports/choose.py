"""Strategies and fits for people: a table of choices, the answer first, and the arguments to paste."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from planner.choose.schema import Choice, Fit, Largest, Strategies
from planner.hardware.demand import Demand, Fits, Resource
from planner.hardware.machine import Machine
from planner.notes import texts
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import number
from planner.reports.summary import gib, gib_short, job_line
from planner.reports.table import draw, pairs, ruled_table
from planner.units import format_bytes, human_bytes

LEGEND = (
    "GPU: the smallest card that gets through, CUDA context in it   RAM: resident   moved: to the GPU and back, in GB"
    "\n1 GiB is 2^30 bytes, 1 GB is 10^9 bytes"
)
TITLES = ("strategy, in GiB", "fits", "GPU", "RAM", "disk", "moved", "passes", "what is missing")
RIGHT = (False, False, True, True, True, True, True, False)
_WORDS: dict[Fits, str] = {"yes": "yes", "slow": "slowly", "not said": "?", "no": "NO"}
_STYLE: dict[Fits, str] = {"yes": "green", "slow": "bold yellow", "not said": "dim", "no": "bold red"}


def render_strategies(answer: Strategies, *, width: int | None = None, color: bool = False) -> str:
    """Every strategy in one table, and the best one to paste."""
    best = answer.best
    head = [*_header(answer), ("verdict", verdict(best))]
    parts: list[RenderableType] = [pairs(head), Text(), _table(answer.choices), Text(LEGEND, style="dim"), Text()]
    parts += [Text(f"{best.strategy}, to paste:", style="bold"), Text(best.python), Text()]
    return draw(Group(*parts, pairs(list(_notes(answer)))), width=width, color=color)


def render_fit(answer: Fit, *, width: int | None = None, color: bool = False) -> str:
    """Yes or no first; then each resource; then what makes it fit."""
    choice = answer.answer
    parts: list[RenderableType] = [
        Text(verdict(choice), style=_STYLE[choice.fits]),
        Text(),
        pairs(_header(answer)),
        pairs([(demand.resource, demand_line(demand)) for demand in choice.demands]),
    ]
    if answer.fixes:
        parts += [Text(), Text("It fits with each of these, planned:", style="bold"), _table(answer.fixes), Text()]
        first = answer.fixes[0]
        parts += [Text(f"{first.strategy}, to paste:", style="bold"), Text(first.command), Text(first.python)]
    elif answer.closest:
        parts += [Text(), Text("Nothing that was tried makes it fit. Closest:", style="bold"), _table(answer.closest)]
    if answer.largest:
        parts += [Text(), pairs([("largest", largest_line(each)) for each in answer.largest])]
    return draw(Group(*parts, Text(), pairs(list(_notes(answer)))), width=width, color=color)


def verdict(choice: Choice) -> str:
    """Yes or no, what binds, and how much of it is left or missing."""
    if choice.fails:
        return f"NO: LLM Compressor itself would not finish: {choice.fails}"
    over = [demand for demand in choice.demands if demand.outcome == "over"]
    if over:
        return "NO: " + "; ".join(f"{demand.resource}: {_missing(demand)}" for demand in over)
    unsaid = [demand.resource for demand in choice.demands if demand.outcome == "not said"]
    words = {"yes": "YES", "slow": "YES, BUT SLOWLY", "not said": "NOBODY SAID what the machine has"}
    text = words[choice.fits]
    if choice.binds and (demand := choice.demand(choice.binds)) and demand.has_bytes is not None:
        text += f": {demand.resource} binds, {human_bytes(demand.has_bytes - demand.at_least_bytes)} to spare"
    return text + (f" (not said: {', '.join(unsaid)})" if unsaid and choice.fits != "not said" else "")


def demand_line(demand: Demand) -> str:
    """What is needed of one resource and what there is."""
    has = "nobody said how much there is" if demand.has_bytes is None else f"the machine has {gib(demand.has_bytes)}"
    between = "" if demand.needs_bytes == demand.at_least_bytes else f", at least {gib(demand.at_least_bytes)}"
    return f"{demand.outcome}: {gib(demand.needs_bytes)}{between}; {has} ({demand.what})"


def largest_line(largest: Largest) -> str:
    """The largest value that fits."""
    if largest.value is None:
        return f"{largest.field}: not even the smallest fits"
    more = " or more" if largest.value >= largest.limit else ""
    return f"{largest.field} {largest.value:,}{more}: {largest.command}"


def machine_line(machine: Machine) -> str:
    """The machine in one line: its name, cards, RAM and disk, as far as somebody said."""
    parts = [machine.name] if machine.name else []
    if machine.gpu_memory_bytes is not None:
        many = f"{machine.gpus} x " if machine.gpus > 1 else ""
        parts.append(f"{many}{machine.gpu or 'GPU'} of {gib_short(machine.gpu_memory_bytes)}")
    elif machine.gpus == 0:
        parts.append("no GPU")
    for word, size in (("RAM", machine.ram_bytes), ("disk", machine.disk_bytes)):
        parts += [f"{gib_short(size)} of {word}"] if size is not None else []
    return ", ".join(parts)


def _header(answer: Strategies | Fit) -> list[tuple[str, str]]:
    weights = f"{answer.model.parameters:,} parameters, {format_bytes(answer.model.bytes, 'GiB')}"
    return [
        ("model", f"{answer.model.name} ({weights})"),
        ("recipe", answer.recipe),
        ("job", job_line(answer.job)),
        ("machine", machine_line(answer.machine)),
    ]


def _notes(answer: Strategies | Fit) -> Iterator[tuple[str, str]]:
    for place, text in enumerate(dict.fromkeys((*answer.machine.notes, *texts(answer.notes)))):
        yield ("" if place else "notes", text)


def _table(choices: Sequence[Choice]) -> RenderableType:
    table = ruled_table()
    for title, right in zip(TITLES, RIGHT, strict=True):
        table.add_column(
            title, justify="right" if right else "left", no_wrap=title not in (TITLES[0], TITLES[-1]), overflow="fold"
        )
    for choice in choices:
        cells = [Text(cell) for cell in _cells(choice)]
        cells[1].stylize(_STYLE[choice.fits])
        table.add_row(*cells)
    return table


def _cells(choice: Choice) -> list[str]:
    return [
        choice.strategy + ("" if choice.is_same_result else " (another result)"),
        _WORDS[choice.fits],
        *(_size(choice, resource) for resource in ("GPU", "RAM", "disk")),
        f"{choice.moved_bytes / 10**9:,.0f}",
        str(choice.passes),
        missing_line(choice),
    ]


def missing_line(choice: Choice) -> str:
    """Why it does not fit; empty where it does."""
    return choice.fails or "; ".join(_missing(each) for each in choice.demands if each.outcome == "over")


def _size(choice: Choice, resource: Resource) -> str:
    demand = choice.demand(resource)
    if demand is None:
        return "-"
    return number(demand.at_least_bytes if resource == "GPU" else demand.needs_bytes, 2)


def _missing(demand: Demand) -> str:
    lacking = demand.at_least_bytes - (demand.has_bytes or 0)
    return f"{human_bytes(max(0, lacking))} of {demand.resource} missing"


def markdown_strategies(answer: Strategies) -> str:
    """The same table as markdown."""
    head = "\n".join(f"- {name}: {text}" for name, text in _header(answer))
    return f"{head}\n- verdict: {verdict(answer.best)}\n\n{_markdown(answer.choices)}\n"


def markdown_fit(answer: Fit) -> str:
    """Yes or no, and the fixes as markdown."""
    head = "\n".join(f"- {name}: {text}" for name, text in _header(answer))
    lines = [f"- {demand.resource}: {demand_line(demand)}" for demand in answer.answer.demands]
    table = _markdown(answer.fixes or answer.closest)
    return f"**{verdict(answer.answer)}**\n\n{head}\n" + "\n".join(lines) + f"\n\n{table}\n"


def _markdown(choices: Sequence[Choice]) -> str:
    return markdown_table(list(TITLES), list(RIGHT), [[escape(cell) for cell in _cells(each)] for each in choices])


STRATEGIES: Formats[Strategies] = {
    "table": render_strategies,
    "json": as_json,
    "markdown": everywhere(markdown_strategies),
}
FIT: Formats[Fit] = {"table": render_fit, "json": as_json, "markdown": everywhere(markdown_fit)}
