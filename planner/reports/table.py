"""A plan as a table for people, in the terminal or a text file."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.box import Box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.compress.schema import Plan
from planner.compress.verdicts import verdict
from planner.notes import texts
from planner.reports.advice import advice_line
from planner.reports.forms import StepsShown
from planner.reports.host import disk_line, ram_lines
from planner.reports.numbers import decimals_for, gib, number, smallest_shown
from planner.reports.rows import TITLES, Row, cpu_columns, gpu_columns, rows
from planner.reports.summary import answer, cpu_lines, gpu_lines, header, result_line

# Columns. Wide enough for every table; used for output into a pipe or a file.
UNLIMITED = 250

# Characters that unit names are cut to, from the left, where the terminal is too narrow for the table.
SHORT = 20

_PEAK, _OVER = "*", "!"
_FEW = 3  # with at most this many GPU parts, the CPU's cache column is dropped before another GPU part
_VERDICT_STYLE = {"fits": "green", "tight": "bold yellow", "over": "bold red"}
_RULED = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


def render(plan: Plan, *, steps: StepsShown = "folded", width: int | None = None, color: bool = False) -> str:
    """The plan as text: header, one line per step, summary. `width` None: as wide as needed."""
    lines = rows(plan, steps) if plan.method != "rule-of-thumb" else []
    parts: list[RenderableType] = [pairs(header(plan))]
    if lines:
        parts += [Text(), _step_table(lines, width or UNLIMITED), *_legend(lines)]
    return draw(Group(*parts, Text(), _summary(plan)), width=width, color=color)


def draw(content: RenderableType, *, width: int | None, color: bool) -> str:
    """The text that rich draws of `content` on such a terminal, without trailing blanks."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width or UNLIMITED,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(content)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n")) + "\n"


def ruled_table() -> Table:
    """A table with a rule under its head and no other lines, easy to read and to copy."""
    return Table(box=_RULED, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The parts that have a column of their own, and how many decimals the numbers have."""

    gpu: Sequence[str]
    cpu: Sequence[str]
    gpu_decimals: int
    cpu_decimals: int


def _step_table(lines: list[Row], width: int) -> Table:
    """The widest version that fits. GPU parts without room go into `other`; CPU parts without room are left out."""
    on_gpu, on_cpu = decimals_for(max(line.gpu for line in lines)), decimals_for(max(line.cpu for line in lines))
    gpu = gpu_columns(lines, least=smallest_shown(on_gpu))
    cpu = cpu_columns(lines, least=smallest_shown(on_cpu))
    table = _table(lines, _Columns(gpu, cpu, on_gpu, on_cpu))
    if width_of(table) > width:
        lines = [replace(line, label=short_name(line.label)) for line in lines]
        table = _table(lines, _Columns(gpu, cpu, on_gpu, on_cpu))
    while width_of(table) > width and (cpu or gpu):
        if len(cpu) > 1:
            cpu = [name for name in cpu if name == "cache"]
        elif cpu and len(gpu) <= _FEW:
            cpu = []
        else:
            gpu = _without_least(gpu, lines)
        table = _table(lines, _Columns(gpu, cpu, on_gpu, on_cpu))
    return table


def _table(lines: list[Row], columns: _Columns) -> Table:
    table = ruled_table()
    table.add_column("step, in GiB", no_wrap=True)
    table.add_column("", no_wrap=True)
    for title, names in (("GPU ", columns.gpu), (" CPU ", columns.cpu)):
        table.add_column(title, justify="right", no_wrap=True)
        for name in names:
            table.add_column(TITLES[name], justify="right", no_wrap=True, style="dim", header_style="dim")
    several_runs = len({line.run for line in lines}) > 1
    run = -1
    for line in lines:
        if several_runs and line.modifier and line.run != run:
            table.add_row(Text(line.modifier, style="bold"))
            run = line.run
        table.add_row(*_cells(line, columns))
    return table


def _cells(line: Row, columns: _Columns) -> list[Text]:
    gpu_mark = (_OVER if line.runs_out else "") + (_PEAK if line.is_gpu_peak else "") or " "
    gpu_style = "bold red" if line.runs_out else "bold yellow" if line.is_gpu_peak else "bold"
    cpu_mark, cpu_style = (_PEAK, "bold yellow") if line.is_cpu_peak else (" ", "bold")
    return [
        Text(line.label),
        Text(line.phase if line.exact else f"{line.phase} ~"),
        Text(number(line.gpu, columns.gpu_decimals) + gpu_mark, style=gpu_style),
        *_parts(line.gpu, line.gpu_parts, columns.gpu, columns.gpu_decimals),
        Text(number(line.cpu, columns.cpu_decimals) + cpu_mark, style=cpu_style),
        *_parts(line.cpu, line.cpu_parts, columns.cpu, columns.cpu_decimals),
    ]


def _parts(total: int, parts: Mapping[str, int], names: Sequence[str], decimals: int) -> list[Text]:
    """The named parts. `other` includes parts without a column, so that a line adds up."""
    shown = {name: parts[name] for name in names if name != "other"}
    if "other" in names:
        shown["other"] = total - sum(shown.values())
    return [Text(number(shown[name], decimals)) for name in names]


def short_name(label: str) -> str:
    """A module name without its first parts, where it is longer than SHORT: `…layers.1-26`."""
    parts = label.split(".")
    while len(".".join(parts)) > SHORT and len(parts) > 2:
        parts = parts[1:]
    text = ".".join(parts)
    return text if text == label else f"…{text}"


def _without_least(names: Sequence[str], lines: list[Row]) -> list[str]:
    """The columns without the one that matters least, which goes into `other`; none where `other` would be alone."""
    named = [name for name in names if name != "other"]
    if len(named) < 2:
        return []
    least = min(named, key=lambda name: max(line.gpu_parts[name] for line in lines))
    return [*(name for name in named if name != least), "other"]


def width_of(table: Table) -> int:
    """Width of the table, in characters, where nothing limits it."""
    console = Console(width=10 * UNLIMITED, file=io.StringIO())
    return console.measure(table).maximum


def _legend(lines: list[Row]) -> list[Text]:
    marks = [
        (f"{_PEAK} highest", True),
        (f"{_OVER} does not fit", any(line.runs_out for line in lines)),
        ("~ estimated, see notes", not all(line.exact for line in lines)),
        ("1 GiB is 2^30 bytes", True),
    ]
    return [Text("   ".join(text for text, used in marks if used), style="dim")]


def _summary(plan: Plan) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for title, peak, lines in (
        ("GPU peak", plan.gpu.peak_bytes, gpu_lines(plan)),
        ("CPU peak", plan.cpu.peak_bytes, cpu_lines(plan)),
        *((("RAM", plan.host.peak_resident_bytes, ram_lines(plan.host)),) if plan.host else ()),
    ):
        text = Text(gib(peak), style="bold")
        text.append(" " + lines[0], style="not bold")
        grid.add_row(title, text)
        for line in lines[1:]:
            grid.add_row("", Text(line))
    if plan.disk:
        grid.add_row("disk", Text(disk_line(plan.disk)))
    for place, line in enumerate(answer(plan)):
        grid.add_row("" if place else "verdict", Text(line, style=_VERDICT_STYLE[verdict(plan)]))
    grid.add_row("advice", Text(advice_line(plan)))
    for position, note in enumerate(texts(plan.notes)):
        grid.add_row("" if position else "notes", Text(note))
    if line := result_line(plan):
        grid.add_row("result", Text(line))
    return grid


def pairs(lines: Sequence[tuple[str, str]]) -> Table:
    """A grid of (name, text) lines, the names in a bold column."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True, min_width=len("GPU peak"))
    grid.add_column(overflow="fold")
    for name, text in lines:
        grid.add_row(name, Text(text))
    return grid
