"""Catalogues of machines that a user has: SkyPilot's vms.csv, gpuhunt's files, and a plain table. Reads only files."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from planner.errors import JobError
from planner.hardware.catalogue_rows import CatalogueRow, LeftOutError, from_gpuhunt, from_plain, from_skypilot
from planner.hardware.machine import Machine
from planner.hints import MAX_PATH_SHOWN, few, shorten
from planner.records import Record

MOST_BYTES = 200 * 10**6
"""A larger file is no catalogue; the largest of SkyPilot's has 4 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueKind:
    """One format of catalogues, told by its columns."""

    name: str
    columns: frozenset[str]
    """Columns that this kind has and the others have not."""
    read: Callable[[CatalogueRow], Machine]
    cloud: Callable[[Path], str | None]
    """The cloud that a file is of."""


KINDS = (
    CatalogueKind(
        name="SkyPilot",
        columns=frozenset({"InstanceType", "AcceleratorName", "AcceleratorCount", "MemoryGiB"}),
        read=from_skypilot,
        cloud=lambda path: path.absolute().parent.name or None,
    ),
    CatalogueKind(
        name="gpuhunt",
        columns=frozenset({"instance_name", "gpu_count", "gpu_name", "memory"}),
        read=from_gpuhunt,
        cloud=lambda path: path.stem,
    ),
    CatalogueKind(name="plain", columns=frozenset({"name", "gpu"}), read=from_plain, cloud=lambda _: None),
)


class Catalogue(Record):
    """The machines of one or more files, and what was left out of them."""

    machines: tuple[Machine, ...] = ()
    notes: tuple[str, ...] = ()


def read_catalogues(paths: Sequence[str]) -> Catalogue:
    """The machines of these files, and of every `<cloud>/vms.csv` of these folders.

    Raises JobError for a file that cannot be read or is no catalogue, and for a row that cannot be read.
    """
    read = [read_catalogue(path) for given in paths for path in _files(given)]
    return Catalogue(
        machines=tuple(machine for each in read for machine in each.machines),
        notes=tuple(note for each in read for note in each.notes),
    )


def read_catalogue(path: Path) -> Catalogue:
    """The machines of one file: of rows that repeat a machine for each region, the cheapest."""
    rows, columns = _rows(path)
    kind = _kind(path, columns)
    cloud, day = kind.cloud(path), date.fromtimestamp(path.stat().st_mtime).isoformat()
    left_out: Counter[str] = Counter()
    machines: list[Machine] = []
    for number, cells in rows:
        try:
            row = CatalogueRow(file=str(path), number=number, cells=cells, cloud=cloud, date=day)
            machines.append(kind.read(row))
        except LeftOutError as reason:
            left_out[str(reason)] += 1
    kept = cheapest(machines)
    return Catalogue(machines=kept, notes=tuple(_notes(path, len(machines), len(kept), left_out)))


def cheapest(machines: Iterable[Machine]) -> tuple[Machine, ...]:
    """One of each name: the cheapest in the first one's currency, or the first where no price is known."""
    kept: dict[str | None, Machine] = {}
    for machine in machines:
        before = kept.setdefault(machine.name, machine)
        if _is_cheaper(machine, before):
            kept[machine.name] = machine
    return tuple(kept.values())


def _is_cheaper(machine: Machine, before: Machine) -> bool:
    if machine.price is None or before.price is None:
        return before.price is None and machine.price is not None
    return machine.price.currency == before.price.currency and machine.price.amount < before.price.amount


def _notes(path: Path, rows: int, kept: int, left_out: Counter[str]) -> Iterator[str]:
    if rows > kept:
        yield f"{path}: {rows:,} rows are {kept:,} machines in several regions; the cheapest region of each is kept"
    for reason, count in left_out.most_common():
        yield f"{path}: {count:,} row{'s' if count > 1 else ''} left out: {reason}"


def _files(given: str) -> list[Path]:
    try:
        path = Path(given).expanduser()
        if not path.is_dir():
            return [path]
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JobError(f"--catalogue {shorten(given, MAX_PATH_SHOWN)}: {reason}") from None
    found = sorted([*path.glob("vms.csv"), *path.glob("*/vms.csv")])
    if not found:
        raise JobError(f"--catalogue {path}: the folder has no <cloud>/vms.csv; name a file, or SkyPilot's catalogs/v8")
    return found


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """The rows with their line numbers, and the names of the columns."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise JobError(f"--catalogue {path}: has more than {MOST_BYTES // 10**6} MB, so it is no catalogue")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            return [(reader.line_num, _cells(path, reader.line_num, row)) for row in reader], _columns(reader)
    except OSError as error:
        raise JobError(f"--catalogue {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise JobError(f"--catalogue {path}: is not text in UTF-8; save it as a CSV file in UTF-8") from None
    except csv.Error as error:
        raise JobError(f"--catalogue {path}: is no CSV file: {error}") from None


def _columns(reader: "csv.DictReader[str]") -> list[str]:
    return [name.strip() for name in reader.fieldnames or []]


def _cells(path: Path, number: int, row: dict[Any, Any]) -> dict[str, str]:
    if any(cell.strip() for cell in row.pop(None, [])):  # where csv puts what has no column
        raise JobError(f"{path}, row {number}: has more cells than the table has columns; quote what contains a comma")
    return {column.strip(): cell or "" for column, cell in row.items()}


def _kind(path: Path, columns: Sequence[str]) -> CatalogueKind:
    for kind in KINDS:
        if kind.columns <= set(columns):
            return kind
    names = shorten(few(columns, 8)).strip() or "none"
    raise JobError(
        f"--catalogue {path}: no catalogue of SkyPilot or gpuhunt, and no table with columns name and gpu; its columns "
        f"are {names}"
    )
