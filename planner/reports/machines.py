"""Machines that can be rented, as a list to choose from; the CSV form is one that `--catalogue` reads."""

import csv
import io
import json
from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from planner.hardware.catalogues import Catalogue
from planner.hardware.machine import HourlyPrice, Machine
from planner.reports.drawing import draw, listed
from planner.reports.forms import Formats, everywhere
from planner.reports.listing import or_unknown
from planner.reports.markdown import escape, markdown_table
from planner.units import GB, GIB

TITLES = ("machine", "cloud", "GPUs", "CUDA GiB each", "RAM GiB", "disk GB", "price/hour", "region", "date")
RIGHT = (False, False, False, True, True, True, True, False, False)
COLUMNS = ("name", "cloud", "gpu", "gpus", "ram", "disk", "price", "currency", "region", "source")
FOOTER = """CUDA GiB: what programs have of one card. RAM in units of 2^30 bytes, the local disk in units of 10^9.
Prices are of the date beside them: ask the provider for today's. ?: nobody said. --format json has the sources."""


def _cells(machine: Machine) -> list[str]:
    return [
        machine.name or "",
        machine.cloud or "",
        f"{machine.gpus} x {machine.gpu}" if machine.gpu else f"{machine.gpus}",
        or_unknown(_in(machine.gpu_memory_bytes, GIB), "{:,.2f}"),
        or_unknown(_in(machine.ram_bytes, GIB), "{:,.0f}"),
        or_unknown(_in(machine.disk_bytes, GB), "{:,.0f}"),
        "?" if machine.price is None else f"{machine.price.amount:,.2f} {machine.price.currency}",
        machine.region or "",
        machine.date or "",
    ]


def _in(count: int | None, unit: int) -> float | None:
    return None if count is None else count / unit


def _table(catalogue: Catalogue, /, *, width: int | None = None, color: bool = False) -> str:
    table = listed(TITLES, RIGHT, list(map(_cells, catalogue.machines)), width, ("date", "region", "cloud"))
    notes = [Text(note) for note in _notes(catalogue)]
    return draw(Group(table, Text(), *notes, Text(FOOTER, style="dim")), width=width, color=color)


def _notes(catalogue: Catalogue) -> list[str]:
    """The catalogues' notes, and those of cards that are known by their label only."""
    of_cards = dict.fromkeys(note for machine in catalogue.machines for note in machine.gpu_notes)
    return [*catalogue.notes, *of_cards]


def _json(catalogue: Catalogue) -> str:
    return json.dumps({"schema_version": 1, **catalogue.model_dump()}, indent=1, ensure_ascii=False) + "\n"


def _markdown(catalogue: Catalogue) -> str:
    body = [[escape(cell) for cell in _cells(machine)] for machine in catalogue.machines]
    notes = "".join(f"\n- {escape(note)}" for note in _notes(catalogue))
    return markdown_table(TITLES, RIGHT, body) + "\n" + (f"{notes}\n" if notes else "")


def as_csv(machines: Sequence[Machine]) -> str:
    """A row for each machine, in the columns of a plain catalogue; sizes are exact, and empty where nobody knows."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for machine in machines:
        card = machine.gpu if machine.gpu and not machine.gpu_notes else _size(machine.gpu_memory_bytes)
        sizes = (_size(machine.ram_bytes), _size(machine.disk_bytes))
        place = (machine.region, machine.source)
        writer.writerow((machine.name, machine.cloud, card, machine.gpus, *sizes, *_price(machine.price), *place))
    return stream.getvalue()


def _price(price: HourlyPrice | None) -> tuple[float | None, str | None]:
    return (None, None) if price is None else (price.amount, price.currency)


def _size(count: int | None) -> str:
    """Exactly, in the largest of GiB, GB and bytes that divides it."""
    if count is None:
        return ""
    return next(
        (f"{count // unit}{name}" for name, unit in (("GiB", GIB), ("GB", GB)) if count % unit == 0), f"{count}B"
    )


MACHINES: Formats[Catalogue] = {"table": _table, "json": everywhere(_json), "markdown": everywhere(_markdown)}
