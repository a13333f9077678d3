"""The machine that a command line names: one of a catalogue, this one, or one that is put together from sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

from planner.errors import JobError
from planner.hardware.catalogues import read_catalogues
from planner.hardware.gpus import agreed_gpu, find_gpu, named_gpu, size_notes
from planner.hardware.here import this_machine
from planner.hardware.machine import MAX_DISK, MAX_GPUS, MAX_RAM, Machine
from planner.hardware.machines import find_machine, list_machines, together
from planner.hints import shorten
from planner.units import format_bytes, parse_bytes

AS_TYPED = "as given on the command line"


def machine_of(
    *,
    gpu: str | None = None,
    gpu_memory: str | None = None,
    gpus: int | None = None,
    ram: str | None = None,
    disk: str | None = None,
    machine: str | None = None,
    here: bool = False,
    catalogues: Sequence[str] = (),
) -> Machine:
    """The machine of `--machine` or `--here`, or none of them, with what the other options say instead.

    A price is the base's, and goes where an option makes more of the machine than is rented for it. Raises JobError for
    a name that nobody knows, for a size that no machine has, and where two options contradict each other.
    """
    if machine is not None and here:
        raise JobError(f"--machine {shorten(machine)} and --here are two machines; give one of them")
    base = _base(machine, here, catalogues)
    given = {
        **_card(agreed_gpu(gpu, gpu_memory)),
        **_count(gpus),
        **_memory(ram),
        **_disk(disk),
    }
    if not given:
        return base
    merged = {**base.model_dump(), **given, **_provenance(base, given)}
    return Machine.model_validate(merged)


def _base(machine: str | None, here: bool, catalogues: Sequence[str]) -> Machine:
    if here:
        return this_machine()
    if machine is not None:
        return find_machine(machine, together([*list_machines(), *read_catalogues(catalogues).machines]))
    return Machine(source=AS_TYPED)


def _card(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    card = find_gpu(text)
    if card.memory_bytes > MAX_RAM:
        raise JobError(f"--gpu {shorten(text)}: no card has more than {format_bytes(MAX_RAM, 'TiB')}")
    name = None if named_gpu(text) is None else card.name
    return {"gpu": name, "gpu_memory_bytes": card.memory_bytes, "sm": card.sm, "gpu_notes": size_notes(card)}


def _count(gpus: int | None) -> dict[str, Any]:
    if gpus is None:
        return {}
    if not 1 <= gpus <= MAX_GPUS:
        raise JobError(f"--gpus {gpus}: write a number from 1 to {MAX_GPUS:,}")
    return {"gpus": gpus}


def _memory(text: str | None) -> dict[str, Any]:
    """RAM that somebody typed is all there is to know of it: what was free, and how large /dev/shm is, goes with it."""
    if text is None:
        return {}
    return {"ram_bytes": _size("--ram", text, MAX_RAM), "ram_available_bytes": None, "shm_bytes": None, "notes": ()}


def _disk(text: str | None) -> dict[str, Any]:
    return {} if text is None else {"disk_bytes": _size("--disk", text, MAX_DISK), "cache_disk_bytes": None}


def _size(option: str, text: str, most: int) -> int:
    try:
        size = parse_bytes(text)
    except JobError as error:
        raise JobError(f"{option}: {error}") from None
    if size > most:
        raise JobError(f"{option} {shorten(text)}: no machine has more than {format_bytes(most, 'TiB')}")
    return size


def _provenance(base: Machine, given: Mapping[str, Any]) -> dict[str, Any]:
    """Source, price and number of cards of a machine of which options say a part; a card that is named is there."""
    gpus = {"gpus": 1} if base.gpus == 0 and "gpu" in given and "gpus" not in given else {}
    if base.source == AS_TYPED:
        return gpus
    said = {"gpu": "GPU", "gpus": "GPUs", "ram_bytes": "RAM", "disk_bytes": "disk"}
    words = " and ".join(word for field, word in said.items() if field in given)
    price = None if _is_another(base, given) else base.price
    return {**gpus, "source": f"{base.source}; {words} {AS_TYPED}", "price": price}


def _is_another(base: Machine, given: Mapping[str, Any]) -> bool:
    """Whether the options describe more than, or something else than, what is rented at the base's price."""
    more_cards = given.get("gpus", 0) > base.gpus
    more_ram = base.ram_bytes is None or given.get("ram_bytes", 0) > base.ram_bytes
    other_card = "gpu" in given and given["gpu"] != base.gpu
    return other_card or more_cards or ("ram_bytes" in given and more_ram)
