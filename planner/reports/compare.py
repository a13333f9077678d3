"""Several recipes for one model, side by side."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from planner.compress.schema import Plan
from planner.compress.verdicts import Fit, peak_gpu_step, verdict
from planner.notes import texts
from planner.reports.demands import missing_line
from planner.reports.forms import Formats, everywhere
from planner.reports.json_ import render_all
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import decimals_for, number
from planner.reports.summary import header, room, set_by
from planner.reports.table import draw, pairs, ruled_table

LEGEND = (
    "GPU: requested   device: reserved and CUDA context   card: the smallest that gets through   rule: the documented "
    "rule of thumb\nRAM: resident   result: on disk   serving: it with vLLM, one sequence   1 GiB is 2^30 bytes"
)
TITLES = ("recipe, in GiB", "fits", "GPU", "device", "card", "rule", "RAM", "result", "serving", "GPU peak")
_LEAST_WIDTH = {"rule": 110, "device": 105, "serving": 80, "result": 70}
"""Columns that a narrower terminal has no room for."""
_LEFT = ("recipe, in GiB", "fits", "GPU peak")

_FITS: dict[Fit, str] = {"fits": "yes", "tight": "only just", "over": "NO"}
_STYLE: dict[Fit, str] = {"fits": "green", "tight": "bold yellow", "over": "bold red"}


def render(plans: Sequence[Plan], *, width: int | None = None, color: bool = False) -> str:
    """A table with a row per recipe, for people."""
    titles = [title for title in TITLES if width is None or width >= _LEAST_WIDTH.get(title, 0)]
    table = ruled_table()
    for title in titles:
        table.add_column(
            title,
            justify="left" if title in _LEFT else "right",
            no_wrap=title not in ("recipe, in GiB", "GPU peak"),
            overflow="fold",
            style="dim" if title == "rule" else "",
        )
    for plan, cells in zip(plans, _cells(plans), strict=True):
        row = dict(zip(TITLES, map(Text, (*cells[:-2], "\nset by ".join(cells[-2:]))), strict=True))
        row["fits"].stylize(_STYLE[verdict(plan)])
        row["GPU"].stylize("bold")
        table.add_row(*(row[title] for title in titles))
    footer = [("summary" if place == 0 else "", text) for place, text in enumerate(_conclusions(plans))]
    footer += [("notes" if place == 0 else "", text) for place, text in enumerate(_notes(plans))]
    legend = Text(LEGEND, style="dim")
    content = (pairs(_header(plans)), Text(), table, legend, Text(), pairs(footer))
    return draw(Group(*content), width=width, color=color)


def render_markdown(plans: Sequence[Plan]) -> str:
    """The same as a markdown table."""
    head = "\n".join(f"- {name}: {text}" if name else f"  {text}" for name, text in _header(plans))
    titles = [
        "recipe",
        "fits",
        "GPU GiB",
        "device GiB",
        "smallest card GiB",
        "rule of thumb",
        "RAM GiB",
        "result GiB",
        "serving GiB",
        "GPU peak in",
        "set by",
    ]
    right = [False, False, *[True] * 7, False, False]
    body = [[escape(cell) for cell in cells] for cells in _cells(plans)]
    last = "\n".join(f"- {text}" for text in (*_conclusions(plans), *_notes(plans)))
    return f"### {escape(plans[0].model.name)}\n\n{head}\n\n{markdown_table(titles, right, body)}\n\n{last}\n"


def _header(plans: Sequence[Plan]) -> list[tuple[str, str]]:
    return [(name, text) for name, text in header(plans[0]) if name != "recipe"]


def _cells(plans: Sequence[Plan]) -> list[list[str]]:
    on_gpu = decimals_for(max(plan.gpu.peak_bytes for plan in plans))
    return [
        [
            plan.recipe,
            _FITS[verdict(plan)],
            number(plan.gpu.peak_bytes, on_gpu),
            _or_dash(plan.gpu.device_total_bytes if plan.gpu.peak_reserved_bytes else None, on_gpu),
            _or_dash(plan.gpu.smallest_card_bytes, on_gpu),
            _or_dash(plan.rule_of_thumb.gpu_bytes if plan.rule_of_thumb else None, on_gpu),
            number(plan.host.peak_resident_bytes if plan.host else plan.cpu.peak_bytes, 2),
            _or_dash(plan.result.file_bytes if plan.result else None, 2),
            _or_dash(plan.result.serving_bytes if plan.result else None, 2),
            *_where(plan),
        ]
        for plan in plans
    ]


def _or_dash(count: int | None, decimals: int) -> str:
    return "-" if count is None else number(count, decimals)


def _where(plan: Plan) -> list[str]:
    step = peak_gpu_step(plan)
    if step is None:
        return ["-", "-"]
    where = step.phase if step.phase == step.unit else f"{step.phase} of {step.unit}"
    return [where, set_by(step)]


def _notes(plans: Sequence[Plan]) -> list[str]:
    """The notes of all plans, each once; a note that not all plans have names its recipes."""
    notes = dict.fromkeys(note for plan in plans for note in texts(plan.notes))
    owners = {note: [plan.recipe for plan in plans if note in texts(plan.notes)] for note in notes}
    return [note if len(owners[note]) == len(plans) else f"{', '.join(owners[note])}: {note}" for note in notes]


def _conclusions(plans: Sequence[Plan]) -> list[str]:
    """Which recipes fit, and how far apart they are."""
    total = room(plans[0].job)
    misfits = [plan for plan in plans if verdict(plan) == "over"]
    lines = [f"DOES NOT FIT: {plan.recipe}: {_why(plan, total)}." for plan in misfits]
    lines = lines or [f"Every recipe gets through on {total}."]
    least, most = (choose(plans, key=lambda plan: plan.gpu.peak_bytes) for choose in (min, max))
    if least.gpu.peak_bytes and least.gpu.peak_bytes < most.gpu.peak_bytes:
        ratio = most.gpu.peak_bytes / least.gpu.peak_bytes
        lines.append(f"{most.recipe} needs {ratio:,.1f} times the GPU memory of {least.recipe}.")
    return lines


def _why(plan: Plan, total: str) -> str:
    """What is missing, or that the library itself would not finish."""
    fails = next((note.text for note in plan.notes if note.kind == "fails"), None)
    if fails:
        return f"LLM Compressor itself would not finish it ({fails.rstrip('.')})"
    return missing_line(plan.demands) or f"it takes more than {total}"


FORMATS: Formats[Sequence[Plan]] = {
    "table": render,
    "json": everywhere(render_all),
    "markdown": everywhere(render_markdown),
}
