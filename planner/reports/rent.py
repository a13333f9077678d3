"""Machines to rent, for people: the cheapest on which the job fits, and those that just miss."""

from collections.abc import Sequence

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from planner.choose.schema import Choice, Offer, Rent
from planner.hardware.machine import Machine
from planner.notes import texts
from planner.reports.choose import choice_notes
from planner.reports.demands import missing_line
from planner.reports.drawing import draw, pairs, ruled_table, width_of
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import number
from planner.reports.summary import job_line

TITLES = ("machine", "price an hour", "GPUs", "card GiB", "RAM GiB", "strategy", "binds", "needs GiB of it")
RIGHT = (False, True, False, True, True, False, False, True)
SHORT = ("machine", "an hour", "binds, in GiB")
"""On a narrow terminal: cards and strategy stand under the machine, what binds beside what the machine has of it."""
_NUMBERS = {SHORT[1], *(title for title, is_number in zip(TITLES, RIGHT, strict=True) if is_number)}
SHOWN = 15
LEGEND = "card: what CUDA sees of one   prices: of the day that `planner machines` names   1 GiB is 2^30 bytes"


def render(answer: Rent, *, width: int | None = None, color: bool = False) -> str:
    """The answer first, then the machines."""
    head = [
        ("answer", conclusion(answer)),
        ("model", answer.model.name),
        ("recipe", answer.recipe),
        ("job", job_line(answer.job, with_card=False)),
    ]
    parts: list[RenderableType] = [pairs(head), Text()]
    if answer.offers:
        parts += [_table(answer.offers[:SHOWN], width), Text(LEGEND, style="dim")]
    if len(answer.offers) > SHOWN:
        parts.append(Text(f"and {len(answer.offers) - SHOWN} more: --format json has all"))
    if answer.near_misses:
        parts += [Text(), Text("Near misses:", style="bold"), _table(answer.near_misses, width, is_near=True)]
    of_choices = choice_notes([offer.choice for offer in answer.offers[:SHOWN]])
    notes = [("" if place else "notes", text) for place, text in enumerate((*texts(answer.notes), *of_choices))]
    return draw(Group(*parts, Text(), pairs(notes)), width=width, color=color)


def conclusion(answer: Rent) -> str:
    """The cheapest machine in one line, or that there is none."""
    if not answer.offers:
        return "NO machine of the catalogue can do it"
    ranked = "" if answer.is_ranked_by_price else "; nobody said prices, so the smallest memory is first"
    firsts: dict[str, Offer] = {}
    for offer in answer.offers:  # sorted: the first of each currency is the cheapest in it
        if offer.machine.price or not answer.is_ranked_by_price:
            firsts.setdefault(offer.machine.price.currency if offer.machine.price else "", offer)
    texts = (f"{_name(each.machine)}, {price(each.machine)}: {each.choice.strategy}" for each in firsts.values())
    return "; or ".join(texts) + ranked


def price(machine: Machine) -> str:
    """`1.21 USD`, or that nobody said it."""
    return f"{machine.price.amount:,.2f} {machine.price.currency}" if machine.price else "no price"


_MISSING = "what is missing"
_NEAR = (*TITLES[:-2], _MISSING)


def _table(offers: Sequence[Offer], width: int | None, *, is_near: bool = False) -> RenderableType:
    """Every title in a column of its own where there is room for that, or the short form."""
    wide = _columns(_NEAR if is_near else TITLES, [_cells(offer, is_near=is_near) for offer in offers])
    if width is None or width_of(wide) <= width:
        return wide
    titles = (*SHORT[:-1], _MISSING if is_near else SHORT[-1])
    return _columns(titles, [_short(offer, is_near=is_near) for offer in offers], wraps=("machine", _MISSING))


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]], wraps: Sequence[str] = ()) -> Table:
    table = ruled_table()
    for title in titles:
        justify: JustifyMethod = "right" if title in _NUMBERS else "left"
        table.add_column(title, justify=justify, no_wrap=title not in wraps, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _short(offer: Offer, *, is_near: bool) -> list[str]:
    """The cells of a narrow terminal."""
    name, cost, gpus, _card, _ram, strategy, *last = _cells(offer, is_near=is_near)
    demand = offer.choice.demand(offer.choice.binds) if offer.choice.binds else None
    if not is_near and demand is not None:
        last = [f"{demand.resource} {_gib(demand.needs_bytes)} of {_gib(demand.has_bytes)}"]
    return [f"{name}\n  {gpus}: {strategy}", cost, last[0]]


def _cells(offer: Offer, *, is_near: bool) -> list[str]:
    machine, choice = offer.machine, offer.choice
    last = [choice.fails or missing_line(choice.demands)] if is_near else [choice.binds or "-", _needs(choice)]
    return [
        _name(machine),
        price(machine),
        f"{machine.gpus} x {machine.gpu or 'GPU'}" if machine.gpus > 1 else machine.gpu or "GPU",
        _gib(machine.gpu_memory_bytes),
        _gib(machine.ram_bytes),
        choice.strategy + ("" if choice.is_same_result else " (another result)"),
        *last,
    ]


def _needs(choice: Choice) -> str:
    demand = choice.demand(choice.binds) if choice.binds else None
    return _gib(demand.needs_bytes) if demand else "-"


def _gib(count: int | None) -> str:
    return "?" if count is None else number(count, 2)


def _name(machine: Machine) -> str:
    return f"{machine.cloud} {machine.name}" if machine.cloud else machine.name or "machine"


def render_markdown(answer: Rent) -> str:
    """The same tables as markdown."""
    parts = [f"**{conclusion(answer)}**"]
    for offers, titles in ((answer.offers, TITLES), (answer.near_misses, _NEAR)):
        rows = [[escape(cell) for cell in _cells(offer, is_near=titles is _NEAR)] for offer in offers]
        parts += [markdown_table(list(titles), list(RIGHT[: len(titles)]), rows)] if rows else []
    return "\n\n".join(parts) + "\n"


RENT: Formats[Rent] = {"table": render, "json": as_json, "markdown": everywhere(render_markdown)}
