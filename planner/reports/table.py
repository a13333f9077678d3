"""A plan as a table for people, in the terminal or a text file: the answer first, then what it is made of."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.compress.schema import Plan
from planner.compress.verdicts import verdict
from planner.notes import texts
from planner.reports.advice import advice
from planner.reports.drawing import UNLIMITED, command_lines, draw, grid, pairs
from planner.reports.forms import StepsShown
from planner.reports.host import disk_line, ram_lines
from planner.reports.numbers import gib
from planner.reports.rows import rows
from planner.reports.step_table import legend, step_table
from planner.reports.summary import answer, cpu_lines, gpu_lines, header, result_line

_VERDICT_STYLE = {"fits": "green", "tight": "bold yellow", "over": "bold red"}


def render(plan: Plan, *, steps: StepsShown = "folded", width: int | None = None, color: bool = False) -> str:
    """The plan as text: answer, header, a line per kind of step, summary. `width` None: as wide as needed."""
    lines = rows(plan, steps) if plan.method != "rule-of-thumb" else []
    parts: list[RenderableType] = [_answer(plan, width), Text(), pairs(header(plan)), Text()]
    if lines:
        parts += [step_table(lines, width or UNLIMITED), *legend(lines), Text()]
    return draw(Group(*parts, _summary(plan)), width=width, color=color)


def _answer(plan: Plan, width: int | None) -> Table:
    """Whether it gets through, and what to do next."""
    lines = grid()
    for place, line in enumerate(answer(plan)):
        lines.add_row("" if place else "verdict", Text(line, style=_VERDICT_STYLE[verdict(plan)]))
    if line := result_line(plan):
        lines.add_row("result", Text(line))
    sentence, command = advice(plan)
    lines.add_row("advice", Text(sentence))
    for line in command_lines(command, width):
        lines.add_row("", Text(line))
    return lines


def _summary(plan: Plan) -> Table:
    """What sets the peaks, what the process and the disk hold, and what a reader must know."""
    lines = grid()
    for title, peak, about in (
        ("GPU peak", plan.gpu.peak_bytes, gpu_lines(plan)),
        ("CPU peak", plan.cpu.peak_bytes, cpu_lines(plan)),
        *((("RAM", plan.host.peak_resident_bytes, ram_lines(plan.host)),) if plan.host else ()),
    ):
        text = Text(gib(peak), style="bold")
        text.append(" " + about[0], style="not bold")
        lines.add_row(title, text)
        for line in about[1:]:
            lines.add_row("", Text(line))
    if plan.disk:
        lines.add_row("disk", Text(disk_line(plan.disk)))
    for position, note in enumerate(texts(plan.notes)):
        lines.add_row("" if position else "notes", Text(note))
    return lines
