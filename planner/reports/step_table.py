"""The table of a plan's steps, in the widest form for which there is room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from planner.reports.drawing import ruled_table, width_of
from planner.reports.numbers import decimals_for, number, smallest_shown
from planner.reports.rows import SHORT_TITLES, TITLES, Row, cpu_columns, gpu_columns

# Characters that unit names are cut to, from the left, where the terminal is too narrow for the table.
SHORT = 20

_PEAK, _OVER = "*", "!"
_FEW = 3  # with at most this many GPU parts, the CPU's cache column is dropped before another GPU part
_BETWEEN = "│"


@dataclass(frozen=True, slots=True)
class _Columns:
    """The parts that have a column of their own, how they are called, and how many decimals the numbers have."""

    gpu: Sequence[str]
    cpu: Sequence[str]
    titles: Mapping[str, str]
    gpu_decimals: int
    cpu_decimals: int
    is_stacked: bool = False
    """A unit has a line of its own, and its phases stand below it."""


def step_table(lines: list[Row], width: int) -> Table:
    """The widest version that fits: phases go below their units and names are shortened first, then parts lose their
    columns. GPU parts without room go into `other`; CPU parts without room are left out."""
    on_gpu, on_cpu = decimals_for(max(line.gpu for line in lines)), decimals_for(max(line.cpu for line in lines))
    gpu = gpu_columns(lines, least=smallest_shown(on_gpu))
    cpu = cpu_columns(lines, least=smallest_shown(on_cpu))
    columns = _Columns(gpu, cpu, TITLES, on_gpu, on_cpu)
    table = _table(lines, columns)
    if width_of(table) > width:
        lines = [replace(line, label=short_name(line.label)) for line in lines]
        columns = replace(columns, titles=SHORT_TITLES, is_stacked=True)
        table = _table(lines, columns)
    while width_of(table) > width and (cpu or gpu):
        if len(cpu) > 1:
            cpu = [name for name in cpu if name == "cache"]
        elif cpu and len(gpu) <= _FEW:
            cpu = []
        else:
            gpu = _without_least(gpu, lines)
        columns = replace(columns, gpu=gpu, cpu=cpu)
        table = _table(lines, columns)
    return table


def _table(lines: list[Row], columns: _Columns) -> Table:
    table = ruled_table()
    table.add_column("step, in GiB", no_wrap=True)
    if not columns.is_stacked:
        table.add_column("", no_wrap=True)
    for title, names in (("GPU ", columns.gpu), ("CPU ", columns.cpu)):
        if title == "CPU ":
            table.add_column(_BETWEEN, no_wrap=True, style="dim", header_style="dim")
        table.add_column(title, justify="right", no_wrap=True)
        for name in names:
            table.add_column(columns.titles[name], justify="right", no_wrap=True, style="dim", header_style="dim")
    several_runs = len({line.run for line in lines}) > 1
    run = -1
    for line in lines:
        if several_runs and line.modifier and line.run != run:
            table.add_row(Text(line.modifier, style="bold"))
            run = line.run
        if columns.is_stacked and line.phase and line.label.strip() and not line.label.startswith(" "):
            table.add_row(Text(line.label))
        table.add_row(*_names(line, columns.is_stacked), *_cells(line, columns))
    return table


def _names(line: Row, is_stacked: bool) -> list[Text]:
    phase = line.phase if line.exact else f"{line.phase} ~"
    if is_stacked:
        return [Text(f"  {phase}" if line.phase else f"{line.label} {phase}".rstrip())]
    return [Text(line.label), Text(phase)]


def _cells(line: Row, columns: _Columns) -> list[Text]:
    gpu_mark = (_OVER if line.runs_out else "") + (_PEAK if line.is_gpu_peak else "") or " "
    gpu_style = "bold red" if line.runs_out else "bold yellow" if line.is_gpu_peak else "bold"
    cpu_mark, cpu_style = (_PEAK, "bold yellow") if line.is_cpu_peak else (" ", "bold")
    return [
        Text(number(line.gpu, columns.gpu_decimals) + gpu_mark, style=gpu_style),
        *_parts(line.gpu, line.gpu_parts, columns.gpu, columns.gpu_decimals),
        Text(_BETWEEN),
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


def legend(lines: list[Row]) -> list[Text]:
    """What the marks mean that are in the table."""
    marks = [
        (f"{_PEAK} highest", True),
        (f"{_OVER} does not fit", any(line.runs_out for line in lines)),
        ("~ estimated, see notes", not all(line.exact for line in lines)),
        ("a-b: the highest of these", any(line.count > 1 for line in lines)),
        ("1 GiB is 2^30 bytes", True),
    ]
    return [Text("   ".join(text for text, used in marks if used), style="dim")]
