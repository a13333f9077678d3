"""One row of a catalogue, from the columns of SkyPilot, of gpuhunt or of a plain table to a machine. Pure.

A row that is no machine with whole cards, or that has a card of unknown memory, is left out with a reason; the reasons
are counted. A row that cannot be read is an error with the file, the row, the column, and the way out.
"""

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.errors import JobError
from planner.hardware.gpus import Gpu, find_gpu, matching_gpu, named_gpu
from planner.hardware.machine import MAX_DISK, MAX_GPUS, MAX_RAM, HourlyPrice, Machine
from planner.hints import shorten
from planner.units import GB, GIB, MIB, format_bytes, parse_bytes

LONGEST_INFO = 10_000
"""Characters of a GpuInfo; the longest of SkyPilot's has 300."""
IN_GB = 1024
"""A `SizeInMiB` below this is in GB: RunPod's are (80 for 80 GB), and no card has less than 1 GiB."""

NO_CARD = "without a GPU"
NO_MACHINE = "of a card alone, which is sold apart from its machine"
A_SHARE = "with a share of a card"
UNKNOWN_CARD = "with a card that is not in the table and whose memory the catalogue does not say"
SPOT = "at a spot price"


class LeftOutError(Exception):
    """A row that is no machine to plan on; its text is the reason, in the plural's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueRow:
    """The cells of one row by the names of their columns, and where it stands."""

    file: str
    number: int
    """Line of the file, from 1."""
    cells: Mapping[str, str]
    cloud: str | None
    date: str | None

    def text(self, column: str) -> str:
        """The cell without blanks around it; empty where the table has no such column."""
        return (self.cells.get(column) or "").strip()

    def needed(self, column: str) -> str:
        """The cell's text. Raises JobError where it is empty."""
        if not (text := self.text(column)):
            raise self.refuse(column, "is empty; write a value, or take the row out")
        return text

    def number_in(self, column: str) -> float | None:
        """The cell as a number from 0 up; None where it is empty. Raises JobError for anything else."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise self.refuse(column, f"{shorten(text)!r} is not a number; write one, or leave the cell empty")
        return value

    def size_in(self, column: str, unit: int, most: int = MAX_RAM) -> int | None:
        """The cell in bytes, of a number that counts `unit`s; None where it is empty or 0."""
        value = self.number_in(column)
        if value is not None and value * unit > most:
            raise self.refuse(
                column, f"{shorten(self.text(column))!r} is more than {format_bytes(most, 'TiB')}; correct it"
            )
        return int(value * unit) or None if value else None

    def size_with_unit(self, column: str, most: int = MAX_RAM) -> int | None:
        """The cell in bytes, of a text like 64GiB; None where it is empty."""
        text = self.text(column)
        if not text:
            return None
        try:
            size = parse_bytes(text)
        except JobError as error:
            raise self.refuse(column, str(error)) from None
        if size > most:
            raise self.refuse(column, f"{shorten(text)!r} is more than {format_bytes(most, 'TiB')}; correct it")
        return size

    def count_in(self, column: str) -> float:
        """Number of cards, 0 where the cell is empty. Raises JobError for more than any machine has."""
        count = self.number_in(column) or 0
        if count > MAX_GPUS:
            raise self.refuse(column, f"{shorten(self.text(column))!r} is more than {MAX_GPUS:,}; correct it")
        return count

    def price_in(self, column: str, currency: str = "USD") -> HourlyPrice | None:
        """The cell per hour; None where it is empty or 0, which is how catalogues write an unknown price."""
        amount = self.number_in(column)
        return HourlyPrice(amount=amount, currency=currency) if amount else None

    def machine(self, card: Mapping[str, Any], **fields: Any) -> Machine:
        """The machine with the card's fields and these, with this row's cloud, source and date."""
        place = {"cloud": self.cloud, "source": self.file, "date": self.date}
        return Machine.model_validate({**place, **card, **{name: value for name, value in fields.items() if value}})

    def refuse(self, column: str, what: str) -> JobError:
        """The error for a cell."""
        return JobError(f"{self.file}, row {self.number}, column {column}: {what}")


def card_fields(name: str, total: int | None) -> dict[str, Any]:
    """The record's fields for a card with this name and memory, as a provider states them.

    The table's card where there is one with this name and memory; else a card of the stated size, which says so.
    Raises LeftOutError where neither is known.
    """
    known = named_gpu(name) if total is None else matching_gpu(name, total)
    if known is not None:
        return _known(known)
    if total is None:
        raise LeftOutError(UNKNOWN_CARD)
    note = f"{shorten(name)} is not in the table of GPUs: {format_bytes(total)} is its label, CUDA has less of it"
    return {"gpu": name, "gpu_memory_bytes": total, "gpu_notes": (note,)}


def _known(card: Gpu) -> dict[str, Any]:
    return {"gpu": card.name, "gpu_memory_bytes": card.memory_bytes, "sm": card.sm}


def whole(count: float) -> int:
    """A number of whole cards. Raises LeftOutError for none and for a share of one."""
    if count == 0:
        raise LeftOutError(NO_CARD)
    if count != int(count):
        raise LeftOutError(A_SHARE)
    return int(count)


# ---------------------------------------------------------------------- SkyPilot
def from_skypilot(row: CatalogueRow) -> Machine:
    """skypilot-org/skypilot, sky/catalog/common.py: memory in GiB, a blank price where nobody knows it."""
    if not row.text("InstanceType"):
        raise LeftOutError(NO_MACHINE)
    name = row.text("AcceleratorName")
    if not name:
        raise LeftOutError(NO_CARD)
    gpus = whole(row.count_in("AcceleratorCount"))
    return row.machine(
        card_fields(name, _skypilot_memory(row, name, gpus)),
        name=row.text("InstanceType"),
        gpus=gpus,
        ram_bytes=row.size_in("MemoryGiB", GIB),
        cores=int(row.number_in("vCPUs") or 0),
        price=row.price_in("Price"),
        region=row.text("Region"),
    )


def _skypilot_memory(row: CatalogueRow, name: str, gpus: int) -> int | None:
    """Memory of one card by GpuInfo; None where it is blank or does not say it.

    `SizeInMiB` is one card's, and at Vast that of all of them (fetch_vast.py). A card of this name tells which, where
    it has the one and not the other; else the smaller one is taken.
    """
    size = _size_in_mib(row)
    if size is None:
        return None
    stated = size * (GB if size < IN_GB else MIB)
    if gpus == 1 or matching_gpu(name, stated) is not None:
        return stated
    shared = stated // gpus
    all_together = _total_in_mib(row) in {None, size}
    return shared if all_together or matching_gpu(name, shared) is not None else stated


def _size_in_mib(row: CatalogueRow) -> int | None:
    gpus = _gpu_info(row).get("Gpus")
    first = gpus[0] if isinstance(gpus, list) and gpus else None
    memory = first.get("MemoryInfo") if isinstance(first, dict) else None
    return _positive(memory.get("SizeInMiB")) if isinstance(memory, dict) else None


def _total_in_mib(row: CatalogueRow) -> int | None:
    return _positive(_gpu_info(row).get("TotalGpuMemoryInMiB"))


def _positive(value: Any) -> int | None:
    """A number of MiB that a card can have; None for anything else."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MAX_RAM // MIB
    return int(value) if right else None


def _gpu_info(row: CatalogueRow) -> dict[str, Any]:
    """GpuInfo is JSON, or a Python dict as text; empty where the cell is."""
    text = row.text("GpuInfo")
    if not text:
        return {}
    for read in (json.loads, ast.literal_eval):
        try:
            info = read(text) if len(text) <= LONGEST_INFO else None
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(info, dict):
            return info
    raise row.refuse("GpuInfo", f"{shorten(text, 40)!r} is neither JSON nor a Python dict; leave the cell empty")


# ---------------------------------------------------------------------- gpuhunt
def from_gpuhunt(row: CatalogueRow) -> Machine:
    """dstackai/gpuhunt, models.py CatalogItem: all sizes in GB, of one card; spot offers are rows of their own."""
    if row.text("spot").lower() == "true":
        raise LeftOutError(SPOT)
    gpus = whole(row.count_in("gpu_count"))
    return row.machine(
        card_fields(row.needed("gpu_name"), row.size_in("gpu_memory", GB)),
        name=row.needed("instance_name"),
        gpus=gpus,
        ram_bytes=row.size_in("memory", GB),
        disk_bytes=row.size_in("disk_size", GB, MAX_DISK),
        cores=int(row.number_in("cpu") or 0),
        price=row.price_in("price"),
        region=row.text("location"),
    )


# ---------------------------------------------------------------------- a table of one's own
def from_plain(row: CatalogueRow) -> Machine:
    """Columns name and gpu, and any of gpus, ram, disk, price, currency, region, source, cloud; sizes have a unit."""
    try:
        card = find_gpu(row.needed("gpu"))
    except JobError as error:
        raise row.refuse("gpu", str(error)) from None
    named = {"gpu": card.name if named_gpu(row.text("gpu")) is not None else None}
    return row.machine(
        {**_known(card), **named},
        name=row.needed("name"),
        cloud=row.text("cloud"),
        gpus=whole(row.count_in("gpus")) if row.text("gpus") else 1,
        ram_bytes=row.size_with_unit("ram"),
        disk_bytes=row.size_with_unit("disk", MAX_DISK),
        price=row.price_in("price", _currency(row)),
        region=row.text("region"),
        source=row.text("source"),
    )


def _currency(row: CatalogueRow) -> str:
    currency = row.text("currency").upper()
    if row.text("price") and not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise row.refuse("currency", f"{shorten(currency)!r} is not a currency; write one like USD beside the price")
    return currency
