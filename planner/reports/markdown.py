"""A plan as markdown, to paste into an issue or a pull request."""

from collections.abc import Iterable, Sequence

from planner.compress.schema import Plan
from planner.notes import texts
from planner.reports.advice import advice_line
from planner.reports.forms import StepsShown
from planner.reports.host import disk_line, ram_lines
from planner.reports.numbers import decimals_for, gib, number
from planner.reports.rows import Row, cpu_columns, gpu_columns, rows
from planner.reports.summary import answer, cpu_lines, gpu_lines, header, result_line


def render(plan: Plan, *, steps: StepsShown = "folded") -> str:
    """Answer, header, table and summary; numbers in GiB."""
    lines = rows(plan, steps) if plan.method != "rule-of-thumb" else []
    head = [f"- {name}: {text}" if name else f"  {text}" for name, text in header(plan)]
    parts = [f"### {escape(plan.model.name)}, {escape(plan.recipe)}", "\n".join(_answer(plan)), "\n".join(head)]
    if lines:
        parts.append(_table(lines))
    return "\n\n".join([*parts, "\n".join(_summary(plan))]) + "\n"


def markdown_table(titles: Sequence[str], right: Sequence[bool], body: Iterable[Sequence[str]]) -> str:
    """A GitHub table; `right` says which columns hold numbers."""
    rule = ["---:" if number_column else "---" for number_column in right]
    return "\n".join(_line(cells) for cells in ([escape(title) for title in titles], rule, *body))


def escape(text: str) -> str:
    """The text escaped for a table cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _table(lines: Sequence[Row]) -> str:
    gpu, cpu = gpu_columns(lines), cpu_columns(lines)
    numbers = ["GPU GiB", *map(_title, gpu), "CPU GiB", *map(_title, cpu)]
    on_gpu, on_cpu = decimals_for(max(line.gpu for line in lines)), decimals_for(max(line.cpu for line in lines))
    body = [
        [
            escape(line.label.strip()),
            line.phase if line.exact else f"{line.phase} (estimated)",
            _marked(number(line.gpu, on_gpu), line.is_gpu_peak, line.runs_out),
            *(number(line.gpu_parts[name], on_gpu) for name in gpu),
            _marked(number(line.cpu, on_cpu), line.is_cpu_peak),
            *(number(line.cpu_parts[name], on_cpu) for name in cpu),
        ]
        for line in lines
    ]
    return markdown_table(["step", "phase", *numbers], [False, False, *[True] * len(numbers)], body)


def _title(part: str) -> str:
    return part.replace("hessians", "Hessians")


def _marked(text: str, is_peak: bool, runs_out: bool = False) -> str:
    return f"**{text}**" + (" :x:" if runs_out else "") if is_peak or runs_out else text


def _answer(plan: Plan) -> Iterable[str]:
    yield from (f"- **{line}**" for line in answer(plan))
    if line := result_line(plan):
        yield f"- result: {line}"
    yield f"- {advice_line(plan)}"


def _summary(plan: Plan) -> Iterable[str]:
    yield f"- **GPU peak {gib(plan.gpu.peak_bytes)}** " + "; ".join(map(_plain, gpu_lines(plan)))
    yield f"- **CPU peak {gib(plan.cpu.peak_bytes)}** " + "; ".join(map(_plain, cpu_lines(plan)))
    if plan.host:
        yield f"- **RAM {gib(plan.host.peak_resident_bytes)}** " + "; ".join(map(_plain, ram_lines(plan.host)))
    if plan.disk:
        yield f"- disk: {disk_line(plan.disk)}"
    yield from (f"- note: {note}" for note in texts(plan.notes))


def _plain(line: str) -> str:
    return line.replace(";", ",")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
