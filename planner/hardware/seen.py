"""What systems and drivers say of a machine, from texts to records: cards, RAM, limits of containers. Pure."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from planner.hardware.gpus import Gpu, matching_gpu, named_gpu
from planner.units import MIB, format_bytes

UNLIMITED = 2**60
"""Bytes. cgroup v1 writes an unlimited memory as the largest number of whole pages, 2^63 less one page."""

_CGROUPS = PurePosixPath("/sys/fs/cgroup")
NO_CARD = "no NVIDIA driver answers here: name the card, like --gpu l40s"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCard:
    """One card as its driver shows it."""

    name: str
    total_bytes: int | None
    """None where the driver does not say: CPU and GPU share one memory."""
    sm: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenMemory:
    """RAM as the system shows it, or as a container's limit leaves it."""

    total: int
    available: int
    limited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGroup:
    """The files of one memory cgroup: its limit, what is used, and how much of that can be dropped."""

    limit: PurePosixPath
    used: PurePosixPath
    statistics: PurePosixPath
    droppable: str
    """The line of the statistics that counts file pages which nobody used for a while."""


def parse_cards(text: str) -> tuple[SeenCard, ...]:
    """What `nvidia-smi` printed for `here.SMI`: a line per card, memory in MiB."""
    lines = [line for line in csv.reader(text.splitlines(), skipinitialspace=True) if len(line) == 3]
    return tuple(SeenCard(name=name.strip(), total_bytes=_mib(total), sm=_capability(sm)) for name, total, sm in lines)


def visible_cards(cards: Sequence[SeenCard], visible: str | None) -> tuple[SeenCard, ...]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, where it lists numbers; all where it is unset or names them."""
    if visible is None:
        return tuple(cards)
    words = [word.strip() for word in visible.split(",") if word.strip()]
    if not all(word.lstrip("-").isdigit() for word in words):
        return tuple(cards)
    numbers = [int(word) for word in words]
    if any(not 0 <= number < len(cards) for number in numbers):
        numbers = numbers[: next(at for at, number in enumerate(numbers) if not 0 <= number < len(cards))]
    return tuple(cards[number] for number in numbers)


def parse_cgroups(text: str) -> tuple[MemoryGroup, ...]:
    """The memory cgroups of a process, innermost first, by its /proc/self/cgroup; a limit of any of them binds.

    In a container the path is the host's and is not there: its own limit lies at the root of what is mounted.
    """
    groups: list[MemoryGroup] = []
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        if controllers == "":
            groups += map(_version_2, _upwards(_CGROUPS, path))
        elif "memory" in controllers.split(","):
            groups += map(_version_1, _upwards(_CGROUPS / "memory", path))
    return tuple(groups)


def parse_limit(text: str) -> int | None:
    """Bytes that a cgroup may use; None for `max`, for the number that means it, and for what is no number."""
    word = text.strip()
    return int(word) if word.isdigit() and int(word) < UNLIMITED else None


def parse_statistic(text: str, name: str) -> int:
    """The number on the line `name N` of a cgroup's memory.stat; 0 where there is none: then nothing can be dropped."""
    found = (line.split() for line in text.splitlines() if line.startswith(f"{name} "))
    return next((int(words[1]) for words in found if len(words) == 2 and words[1].isdigit()), 0)


def limited(memory: SeenMemory, limit: int, working_set: int) -> SeenMemory:
    """The memory of a process in a cgroup with this limit, of which `working_set` bytes are in use and needed."""
    if limit >= memory.total:
        return memory
    left = max(0, min(memory.available, limit - working_set))
    return SeenMemory(total=limit, available=left, limited=True)


def card_figures(cards: Sequence[SeenCard], ram: int) -> dict[str, object]:
    """Fields of the machine's record for its cards; jobs run on those that are as the first one is."""
    if not cards:
        return {"gpus": 0, "gpu_notes": (NO_CARD,)}
    first = cards[0]
    same = [card for card in cards if (card.name, card.total_bytes) == (first.name, first.total_bytes)]
    others = sorted({card.name for card in cards if card not in same})
    known = named_gpu(first.name) if first.total_bytes is None else matching_gpu(first.name, first.total_bytes)
    size, notes = _card_size(first, known, ram)
    if others:
        notes += (f"besides {len(same)} x {first.name} there are other cards, which are left out: {', '.join(others)}",)
    return {
        "gpu": first.name if known is None else known.name,
        "gpu_memory_bytes": size,
        "sm": known.sm if first.sm is None and known is not None else first.sm,
        "gpus": len(same),
        "gpu_notes": notes,
    }


def _card_size(card: SeenCard, known: Gpu | None, ram: int) -> tuple[int | None, tuple[str, ...]]:
    """What CUDA sees of the card: by the table where it knows it, else the driver's total, with a note."""
    if card.total_bytes is None:
        if known is not None and known.unified:
            return min(known.memory_bytes, ram), (f"{card.name} shares the machine's RAM",)
        return None, (f"the driver does not say the memory of {card.name}: give it, like --gpu-memory 24GiB",)
    if known is not None:
        return known.memory_bytes, ()
    seen = format_bytes(card.total_bytes)
    return card.total_bytes, (f"{card.name} is not in the table: {seen} is the driver's total, CUDA has less of it",)


def _mib(text: str) -> int | None:
    word = text.strip()
    return int(word) * MIB if word.isdigit() and int(word) else None


def _capability(text: str) -> int | None:
    word = text.strip().replace(".", "")
    return int(word) if word.isdigit() else None


def _upwards(mount: PurePosixPath, path: str) -> list[PurePosixPath]:
    """The folder of a cgroup and those above it, up to the mount."""
    parts = [part for part in path.strip("/").split("/") if part and part != ".."]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _version_1(folder: PurePosixPath) -> MemoryGroup:
    return MemoryGroup(
        limit=folder / "memory.limit_in_bytes",
        used=folder / "memory.usage_in_bytes",
        statistics=folder / "memory.stat",
        droppable="total_inactive_file",
    )


def _version_2(folder: PurePosixPath) -> MemoryGroup:
    return MemoryGroup(
        limit=folder / "memory.max",
        used=folder / "memory.current",
        statistics=folder / "memory.stat",
        droppable="inactive_file",
    )
