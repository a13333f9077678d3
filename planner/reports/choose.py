"""Strategies and fits for people: a table of choices, the answer first, and the arguments to paste."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from planner.choose.paste import SAVE_FIRST
from planner.choose.schema import Choice, Fit, Largest, Strategies
from planner.choose.strategies import ASKED
from planner.hardware.demand import Fits, Resource
from planner.notes import texts
from planner.recipe.files import ON_STDIN
from planner.reports.demands import answer_line, demand_line, machine_line, missing_line
from planner.reports.drawing import command_lines, draw, pairs, ruled_table
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import number
from planner.reports.summary import job_line
from planner.sizing.demands import ESTIMATED
from planner.units import format_bytes

LEGEND = (
    "GPU: the smallest card that gets through, CUDA context in it   RAM: resident   moved: to the GPU and back, in GB"
    "\n~ estimated: without loading and saving   1 GiB is 2^30 bytes, 1 GB is 10^9 bytes"
)
TITLES = ("strategy, in GiB", "fits", "GPU", "RAM", "disk", "moved", "passes", "what is missing")
RIGHT = (False, False, True, True, True, True, True, False)
_WORDS: dict[Fits, str] = {"yes": "yes", "slow": "slowly", "not said": "?", "no": "NO"}
_STYLE: dict[Fits, str] = {"yes": "green", "slow": "bold yellow", "not said": "dim", "no": "bold red"}


def render_strategies(answer: Strategies, *, width: int | None = None, color: bool = False) -> str:
    """Every strategy in one table, and the best one to paste."""
    best = answer.best
    head = [*verdict_lines(answer), *_header(answer)]
    parts: list[RenderableType] = [pairs(head), Text(), _table(answer.choices), Text(LEGEND, style="dim"), Text()]
    if best.fits != "no":
        parts += [Text(f"{best.strategy}, to paste:", style="bold"), Text(best.python), Text()]
    return draw(Group(*parts, pairs(list(_notes(answer, answer.choices)))), width=width, color=color)


def verdict_lines(answer: Strategies) -> Iterator[tuple[str, str]]:
    """Whether the job fits as it was asked, and the best way to run it, which may be another one."""
    asked = next((choice for choice in answer.choices if choice.strategy == ASKED.name), None)
    if asked is not None:
        yield "verdict", f"as asked: {_answer(asked)}"
    if answer.best.fits == "no":
        yield "best way", "none of these fits"
    elif answer.best is not asked:
        yield "best way", f"{answer.best.strategy}: {_answer(answer.best)}"


def render_fit(answer: Fit, *, width: int | None = None, color: bool = False) -> str:
    """Yes or no first; then each resource; then what makes it fit."""
    choice = answer.answer
    parts: list[RenderableType] = [
        Text(_answer(choice), style=_STYLE[choice.fits]),
        Text(),
        pairs(_header(answer)),
        pairs([(demand.resource, demand_line(demand)) for demand in choice.demands]),
    ]
    if answer.fixes:
        parts += [Text(), Text("It fits with each of these, planned:", style="bold"), _table(answer.fixes), Text()]
        first = answer.fixes[0]
        parts += [
            Text(f"{first.strategy}, to paste:", style="bold"),
            *map(Text, command_lines(first.command, width, indent=0)),
            *([Text(f"({SAVE_FIRST})")] if answer.recipe == ON_STDIN else []),
            Text(first.python),
        ]
    elif answer.closest:
        parts += [Text(), Text("Nothing that was tried makes it fit. Closest:", style="bold"), _table(answer.closest)]
        if gpus := answer.gpus_of_recipe:
            parts += [
                Text(),
                Text(f"The recipe spreads layers over {gpus} GPUs; for a machine that has them: --gpus {gpus}"),
            ]
    if answer.largest:
        parts += [Text(), pairs([("largest", largest_line(each)) for each in answer.largest])]
    notes = pairs(list(_notes(answer, answer.fixes or answer.closest)))
    return draw(Group(*parts, Text(), notes), width=width, color=color)


def _answer(choice: Choice) -> str:
    return answer_line(choice.fits, choice.demands, choice.fails)


def largest_line(largest: Largest) -> str:
    """The largest value that fits."""
    if largest.value is None:
        return f"{largest.field.replace('_', '-')}: not even the smallest that was tried fits"
    more = " or more" if largest.value >= largest.limit else ""
    return f"{largest.field.replace('_', '-')} {largest.value:,}{more}: {largest.command}"


def _header(answer: Strategies | Fit) -> list[tuple[str, str]]:
    weights = f"{answer.model.parameters:,} parameters, {format_bytes(answer.model.bytes, 'GiB')}"
    return [
        ("model", f"{answer.model.name} ({weights})"),
        ("recipe", answer.recipe),
        ("job", job_line(answer.job, with_card=False)),
        ("machine", machine_line(answer.machine)),
    ]


def _notes(answer: Strategies | Fit, choices: Sequence[Choice]) -> Iterator[tuple[str, str]]:
    of_all = dict.fromkeys((*answer.machine.notes, *texts(answer.notes)))
    for place, text in enumerate((*of_all, *choice_notes(choices))):
        yield ("" if place else "notes", text)


def choice_notes(choices: Sequence[Choice]) -> Iterator[str]:
    """What is to be known of single choices: each text once, with the strategies that it holds for."""
    for text in dict.fromkeys(text for choice in choices for text in texts(choice.notes)):
        names = dict.fromkeys(choice.strategy for choice in choices if text in texts(choice.notes))
        yield f"{', '.join(names)}: {text}"


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
        choice.fails or missing_line(choice.demands),
    ]


def _size(choice: Choice, resource: Resource) -> str:
    demand = choice.demand(resource)
    if demand is None:
        return "-"
    size = number(demand.at_least_bytes if resource == "GPU" else demand.needs_bytes, 2)
    return f"{size}~" if demand.what == ESTIMATED else size


def markdown_strategies(answer: Strategies) -> str:
    """The same table as markdown."""
    head = "\n".join(f"- {name}: {text}" for name, text in _header(answer))
    notes = "".join(f"\n- {escape(text)}" for text in choice_notes(answer.choices))
    told = "\n".join(f"- {name}: {text}" for name, text in verdict_lines(answer))
    return f"{told}\n{head}\n\n{_markdown(answer.choices)}\n{notes}\n"


def markdown_fit(answer: Fit) -> str:
    """Yes or no, and the fixes as markdown."""
    head = "\n".join(f"- {name}: {text}" for name, text in _header(answer))
    lines = [f"- {demand.resource}: {demand_line(demand)}" for demand in answer.answer.demands]
    choices = answer.fixes or answer.closest
    notes = "".join(f"\n- {escape(text)}" for text in choice_notes(choices))
    return f"**{_answer(answer.answer)}**\n\n{head}\n" + "\n".join(lines) + f"\n\n{_markdown(choices)}\n{notes}\n"


def _markdown(choices: Sequence[Choice]) -> str:
    return markdown_table(list(TITLES), list(RIGHT), [[escape(cell) for cell in _cells(each)] for each in choices])


STRATEGIES: Formats[Strategies] = {
    "table": render_strategies,
    "json": as_json,
    "markdown": everywhere(markdown_strategies),
}
FIT: Formats[Fit] = {"table": render_fit, "json": as_json, "markdown": everywhere(markdown_fit)}
