"""Machines that can be rented: the table that is shipped, and how one is found by name there and among a user's own."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from planner.errors import JobError
from planner.hardware.gpus import find_gpu
from planner.hardware.machine import HourlyPrice, Machine
from planner.hints import nearest, shorten
from planner.units import parse_bytes

MACHINES = Path(__file__).with_suffix(".json")


@cache
def list_machines() -> tuple[Machine, ...]:
    """All machines of the table, in its order."""
    table = json.loads(MACHINES.read_text(encoding="utf-8"))
    return tuple(_machine(row, table["sources"][row["source"]]) for row in table["machines"])


def find_machine(text: str, machines: Iterable[Machine]) -> Machine:
    """The machine of this name, or `cloud/name`; case does not matter.

    Raises JobError for a name that none has, and for one that machines of several clouds have.
    """
    wanted = text.strip().lower()
    known = list(machines)
    found = [machine for machine in known if wanted in _names(machine)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(f"{machine.cloud}/{machine.name}" for machine in found))
        raise JobError(f"--machine {shorten(text)}: several have that name; say which: {names}")
    close = nearest(wanted, dict.fromkeys(name for machine in known for name in _names(machine)))
    ways = "`planner machines` lists all; or say --gpu, --ram and --disk"
    raise JobError(f"unknown machine {shorten(text)!r}; the nearest names are {', '.join(close)} ({ways})")


def together(machines: Iterable[Machine]) -> tuple[Machine, ...]:
    """One machine for each cloud and name, in the place of the first and with the figures of the last that was given.

    So a user's catalogue, read after the table that is shipped, brings newer prices.
    """
    return tuple({(machine.cloud, machine.name): machine for machine in machines}.values())


def chosen_machines(machines: Sequence[Machine], *, gpu: str | None, cloud: str | None) -> tuple[Machine, ...]:
    """The machines with this card and of this cloud; None for any.

    A card may also be called as a catalogue calls one that is not in the table of GPUs. Raises JobError for a card or a
    cloud that no machine has, and says which there are.
    """
    with_card = machines if gpu is None else _with_card(machines, gpu)
    if cloud is None:
        return tuple(with_card)
    chosen = tuple(machine for machine in with_card if _is(machine.cloud, cloud))
    if chosen:
        return chosen
    clouds = ", ".join(dict.fromkeys(machine.cloud for machine in with_card if machine.cloud))
    having = f"has no machine with --gpu {shorten(gpu)}" if gpu else "is unknown"
    raise JobError(f"--cloud {shorten(cloud)} {having}; there are {clouds}")


def _with_card(machines: Sequence[Machine], text: str) -> list[Machine]:
    called_so = [machine for machine in machines if _is(machine.gpu, text)]
    if called_so:
        return called_so
    card = find_gpu(text)
    chosen = [machine for machine in machines if machine.gpu == card.name]
    if not chosen:
        cards = ", ".join(dict.fromkeys(machine.gpu for machine in machines if machine.gpu))
        raise JobError(f"--gpu {shorten(text)}: no machine of the catalogue has it; there are {cards}")
    return chosen


def _is(name: str | None, text: str) -> bool:
    return (name or "").lower() == text.strip().lower()


def _names(machine: Machine) -> tuple[str, ...]:
    name = (machine.name or "").lower()
    return (name,) if machine.cloud is None else (name, f"{machine.cloud.lower()}/{name}")


def _machine(row: Mapping[str, Any], source: Mapping[str, str]) -> Machine:
    card = find_gpu(row["gpu"])
    return Machine(
        name=row["name"],
        cloud=row["cloud"],
        gpu=card.name,
        gpu_memory_bytes=card.memory_bytes,
        sm=card.sm,
        gpus=row["gpus"],
        ram_bytes=None if row["ram"] is None else parse_bytes(row["ram"]),
        disk_bytes=None if row["disk"] is None else parse_bytes(row["disk"]),
        cores=row["cores"],
        price=None if row["price"] is None else HourlyPrice(amount=row["price"], currency=row["currency"]),
        region=row["region"],
        source=source["text"],
        date=source["date"],
    )
