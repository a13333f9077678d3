"""Several recipes for one model, side by side; with several strategies and machines, where these were asked for."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from planner.compress.schema import Plan
from planner.compress.verdicts import Fit, peak_gpu_step, verdict
from planner.notes import texts
from planner.reports.demands import missing_line
from planner.reports.drawing import UNLIMITED, draw, pairs, ruled_table, width_of
from planner.reports.forms import Formats, everywhere
from planner.reports.json_ import render_all
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import decimals_for, number
from planner.reports.summary import card, header, job_line, room, set_by

LEGEND = {
    "GPU": "requested",
    "device": "reserved and CUDA context",
    "card": "the smallest that gets through",
    "rule": "the documented rule of thumb",
    "RAM": "resident",
    "least": "without it the job is killed",
    "result": "on disk",
    "serving": "it with vLLM, one sequence",
    "runs": "vLLM has kernels for the format on this card, by its documentation",
}
TITLES = (
    "recipe, in GiB",
    "fits",
    "GPU",
    "device",
    "card",
    "rule",
    "RAM",
    "least",
    "result",
    "serving",
    "runs",
)
_FIRST_TO_GO = ("rule", "runs", "device", "least", "serving", "result")
"""Columns that a narrow terminal has no room for."""
_LEFT = ("recipe, in GiB", "fits", "runs")

_FITS: dict[Fit, str] = {"fits": "yes", "tight": "only just", "over": "NO"}
_STYLE: dict[Fit, str] = {"fits": "green", "tight": "bold yellow", "over": "bold red"}


def render(plans: Sequence[Plan], *, width: int | None = None, color: bool = False) -> str:
    """For people: which recipes fit, a table with a row for each, and what sets its peak."""
    table = _widest(plans, width or UNLIMITED)
    content = (
        _lines("summary", _conclusions(plans)),
        Text(),
        pairs(_header(plans)),
        Text(),
        table,
        Text(_legend(table), style="dim"),
        Text(),
        _lines("peaks", [f"{_named(plan, plans)}: {_peak(plan)}" for plan in plans]),
        *((_lines("notes", notes),) if (notes := _notes(plans)) else ()),
    )
    return draw(Group(*content), width=width, color=color)


def _lines(name: str, texts: Sequence[str]) -> Table:
    return pairs([("" if place else name, text) for place, text in enumerate(texts)])


def _legend(table: Table) -> str:
    """What the columns are that there is room for."""
    shown = [str(column.header) for column in table.columns]
    return "   ".join((*(f"{name}: {what}" for name, what in LEGEND.items() if name in shown), "1 GiB is 2^30 bytes"))


def _widest(plans: Sequence[Plan], width: int) -> Table:
    """The table with all columns for which there is room."""
    titles = list(TITLES)
    table = _table(plans, titles)
    for title in _FIRST_TO_GO:
        if width_of(table) <= width:
            break
        titles.remove(title)
        table = _table(plans, titles)
    return table


def _table(plans: Sequence[Plan], titles: Sequence[str]) -> Table:
    table = ruled_table()
    for title in titles:
        table.add_column(
            title,
            justify="left" if title in _LEFT else "right",
            no_wrap=title != TITLES[0],
            overflow="fold",
            style="dim" if title == "rule" else "",
        )
    for plan, cells in zip(plans, _cells(plans), strict=True):
        row = dict(zip(TITLES, map(Text, cells), strict=True))
        row[TITLES[0]] = Text("\n".join((plan.recipe, *_how(plan, plans))))
        row["fits"].stylize(_STYLE[verdict(plan)])
        row["GPU"].stylize("bold")
        table.add_row(*(row[title] for title in titles))
    return table


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
        "RAM at least",
        "result GiB",
        "serving GiB",
        "runs",
        "GPU peak in",
        "set by",
    ]
    right = [False, False, *[True] * 8, False, False, False]
    body = [[escape(cell) for cell in (*cells, *_where(p))] for p, cells in zip(plans, _cells(plans), strict=True)]
    last = "\n".join(f"- {text}" for text in (*_conclusions(plans), *_notes(plans)))
    return f"### {escape(plans[0].model.name)}\n\n{head}\n\n{markdown_table(titles, right, body)}\n\n{last}\n"


def _header(plans: Sequence[Plan]) -> list[tuple[str, str]]:
    """As of the job as asked; its card only where all have the same."""
    asked = next((plan for plan in plans if not plan.strategy), plans[0])
    job = job_line(asked.job, with_card=len({_place(plan) for plan in plans}) == 1)
    return [(name, job if name == "job" else text) for name, text in header(asked) if name != "recipe"]


def _cells(plans: Sequence[Plan]) -> list[list[str]]:
    on_gpu = decimals_for(max(plan.gpu.peak_bytes for plan in plans))
    return [
        [
            _named(plan, plans),
            _FITS[verdict(plan)],
            number(plan.gpu.peak_bytes, on_gpu),
            _or_dash(plan.gpu.device_total_bytes if plan.gpu.peak_reserved_bytes else None, on_gpu),
            _or_dash(plan.gpu.smallest_card_bytes, on_gpu),
            _or_dash(plan.rule_of_thumb.gpu_bytes if plan.rule_of_thumb else None, on_gpu),
            number(plan.host.peak_resident_bytes if plan.host else plan.cpu.peak_bytes, 2),
            _or_dash(plan.host.peak_must_have_bytes if plan.host else None, 2),
            _or_dash(plan.result.file_bytes if plan.result else None, 2),
            _or_dash(plan.result.serving_bytes if plan.result else None, 2),
            plan.card_support.support if plan.card_support else "-",
        ]
        for plan in plans
    ]


def _named(plan: Plan, plans: Sequence[Plan]) -> str:
    return ", ".join((plan.recipe, *_how(plan, plans)))


def _how(plan: Plan, plans: Sequence[Plan]) -> tuple[str, ...]:
    """Strategy and machine of a row, where there are several of them."""
    with_strategies = any(each.strategy for each in plans)
    with_machines = len({_place(each) for each in plans}) > 1
    strategy = (plan.strategy or "as asked",) if with_strategies else ()
    return (*strategy, f"on {_place(plan)}") if with_machines else strategy


def _place(plan: Plan) -> str:
    return (plan.machine.name if plan.machine else None) or card(plan.job)


def _or_dash(count: int | None, decimals: int) -> str:
    return "-" if count is None else number(count, decimals)


def _where(plan: Plan) -> list[str]:
    step = peak_gpu_step(plan)
    if step is None:
        return ["-", "-"]
    where = step.phase if step.phase == step.unit else f"{step.phase} of {step.unit}"
    return [where, set_by(step)]


def _peak(plan: Plan) -> str:
    """Where its GPU peak is, and what sets it."""
    where, what = _where(plan)
    return "nothing is computed on a GPU" if where == "-" else f"{where}, set by {what}"


def _notes(plans: Sequence[Plan]) -> list[str]:
    """The notes of all plans, each once; a note that not all plans have names its recipes."""
    notes = dict.fromkeys(note for plan in plans for note in texts(plan.notes))
    owners = {note: [_named(plan, plans) for plan in plans if note in texts(plan.notes)] for note in notes}
    return [note if len(owners[note]) == len(plans) else f"{'; '.join(owners[note])}: {note}" for note in notes]


def _conclusions(plans: Sequence[Plan]) -> list[str]:
    """Which recipes fit, and how far apart they are."""
    misfits = [plan for plan in plans if verdict(plan) == "over"]
    named = {id(plan): _named(plan, plans) for plan in plans}
    lines = [f"DOES NOT FIT: {named[id(plan)]}: {_why(plan, room(plan.job))}." for plan in misfits]
    places = " and on ".join(dict.fromkeys(room(plan.job) for plan in plans))
    lines = lines or [f"Every recipe gets through on {places}."]
    least, most = (choose(plans, key=lambda plan: plan.gpu.peak_bytes) for choose in (min, max))
    if least.gpu.peak_bytes and least.gpu.peak_bytes < most.gpu.peak_bytes:
        ratio = most.gpu.peak_bytes / least.gpu.peak_bytes
        lines.append(f"{named[id(most)]} needs {ratio:,.1f} times the GPU memory of {named[id(least)]}.")
    return lines


def _why(plan: Plan, total: str) -> str:
    """What is missing, or what LLM Compressor itself makes of the job on any machine."""
    fails = next((note.text for note in plan.notes if note.kind == "fails"), None)
    if fails:
        return f"on any machine: {fails.rstrip('.')}"
    return missing_line(plan.demands) or f"it takes more than {total}"


FORMATS: Formats[Sequence[Plan]] = {
    "table": render,
    "json": everywhere(render_all),
    "markdown": everywhere(render_markdown),
}
