"""Several recipes for one model, side by side."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from planner.compress.schema import Plan
from planner.compress.verdicts import Fit, peak_gpu_step, verdict
from planner.notes import texts
from planner.reports.forms import Formats, everywhere
from planner.reports.json_ import render_all
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import decimals_for, number
from planner.reports.summary import header, room, set_by
from planner.reports.table import draw, pairs, ruled_table

LEGEND = (
    "GPU: requested   reserved: with the caching allocator   card: the smallest that gets through, CUDA context in it"
    "\nrule: LLM Compressor's documented rule of thumb   1 GiB is 2^30 bytes"
)

_FITS: dict[Fit, str] = {"fits": "yes", "tight": "only just", "over": "NO"}
_STYLE: dict[Fit, str] = {"fits": "green", "tight": "bold yellow", "over": "bold red"}


def render(plans: Sequence[Plan], *, width: int | None = None, color: bool = False) -> str:
    """A table with a row per recipe, for people."""
    table = ruled_table()
    for title in ("recipe, in GiB", "GPU", "reserved", "card", "rule", "CPU", "rule", "fits", "GPU peak"):
        table.add_column(
            title,
            justify="left" if title in ("recipe, in GiB", "fits", "GPU peak") else "right",
            no_wrap=title not in ("recipe, in GiB", "GPU peak"),
            overflow="fold",
            style="dim" if title == "rule" else "",
        )
    for plan, cells in zip(plans, _cells(plans), strict=True):
        texts = [Text(cell) for cell in (*cells[:-2], "\nset by ".join(cells[-2:]))]
        texts[1].stylize("bold")
        texts[7].stylize(_STYLE[verdict(plan)])
        table.add_row(*texts)
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
        "GPU GiB",
        "reserved GiB",
        "smallest card GiB",
        "rule of thumb",
        "CPU GiB",
        "rule of thumb",
        "fits",
        "GPU peak in",
        "set by",
    ]
    right = [False, *[True] * 6, False, False, False]
    body = [[escape(cell) for cell in cells] for cells in _cells(plans)]
    last = "\n".join(f"- {text}" for text in (*_conclusions(plans), *_notes(plans)))
    return f"### {escape(plans[0].model.name)}\n\n{head}\n\n{markdown_table(titles, right, body)}\n\n{last}\n"


def _header(plans: Sequence[Plan]) -> list[tuple[str, str]]:
    return [(name, text) for name, text in header(plans[0]) if name != "recipe"]


def _cells(plans: Sequence[Plan]) -> list[list[str]]:
    on_gpu = decimals_for(max(plan.gpu.peak_bytes for plan in plans))
    on_cpu = decimals_for(max(plan.cpu.peak_bytes for plan in plans))
    return [
        [
            plan.recipe,
            number(plan.gpu.peak_bytes, on_gpu),
            _or_dash(plan.gpu.peak_reserved_bytes, on_gpu),
            _or_dash(plan.gpu.smallest_card_bytes, on_gpu),
            number(plan.rule_of_thumb.gpu_bytes, on_gpu),
            number(plan.cpu.peak_bytes, on_cpu),
            number(plan.rule_of_thumb.cpu_bytes, on_cpu),
            _FITS[verdict(plan)],
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
    misfits = [plan.recipe for plan in plans if verdict(plan) == "over"]
    fit = f"Every recipe gets through on {total}."
    lines = [f"DOES NOT FIT in {total}: {', '.join(misfits)}." if misfits else fit]
    least, most = (choose(plans, key=lambda plan: plan.gpu.peak_bytes) for choose in (min, max))
    if least.gpu.peak_bytes and least.gpu.peak_bytes < most.gpu.peak_bytes:
        ratio = most.gpu.peak_bytes / least.gpu.peak_bytes
        lines.append(f"{most.recipe} needs {ratio:,.1f} times the GPU memory of {least.recipe}.")
    return lines


FORMATS: Formats[Sequence[Plan]] = {
    "table": render,
    "json": everywhere(render_all),
    "markdown": everywhere(render_markdown),
}
