"""GPUs that models are served on: memory and bandwidth, each with its source."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planner.errors import JobError
from planner.hints import did_you_mean, shorten
from planner.units import GIB, MIB, format_bytes, parse_bytes

TABLE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one half of a card that shows itself as two."""

    name: str
    memory_bytes: int
    """The memory that CUDA can use, as PyTorch's out-of-memory errors name it (`a total capacity of 23.64 GiB`). It is
    less than the card has: the driver keeps 0.2 to 1.2 GiB, and ECC on GDDR a sixteenth. Where drivers or systems
    differ, this is the smallest value; where nobody published one, nvidia-smi's, else the data sheet's."""
    bandwidth: int | None
    """Bytes per second of its memory, by the data sheet; None where only the size is known."""
    source: str
    aliases: tuple[str, ...] = ()
    unified: bool = False
    """One memory for CPU and GPU."""


@cache
def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs of the table, in its order."""
    return tuple(_gpu(record) for record in json.loads(TABLE.read_text(encoding="utf-8"))["gpus"])


def find_gpu(text: str) -> Gpu:
    """The GPU of this name, or an unnamed one of this size (`24GiB`), whose bandwidth is unknown.

    Spaces, hyphens and case do not matter. Raises JobError for a text that is neither a name nor a size.
    """
    named = {_plain(name): gpu for gpu in list_gpus() for name in (*gpu.aliases, gpu.name)}
    if (gpu := named.get(_plain(text))) is not None:
        return gpu
    if text.strip()[:1].isdigit():
        size = parse_bytes(text)
        return Gpu(name=_size(size), memory_bytes=size, bandwidth=None, source="as given")
    hint = did_you_mean(_plain(text), named)
    known = hint or f"; known are {', '.join(gpu.name for gpu in list_gpus())}"
    raise JobError(f"unknown GPU {shorten(text)!r}{known} (or give its memory, like 24GiB)")


def _gpu(record: dict[str, object]) -> Gpu:
    return Gpu(
        name=str(record["name"]),
        memory_bytes=int(str(record["memory_mib"])) * MIB,
        bandwidth=int(float(str(record["bandwidth_gb_s"])) * 10**9),
        source=str(record["source"]),
        aliases=tuple(record.get("aliases", ())),  # type: ignore[arg-type]  # a list of texts, a test says so
        unified=bool(record.get("unified", False)),
    )


def _plain(text: str) -> str:
    letters = "".join(char for char in text.lower() if char.isalnum())
    return letters.removeprefix("nvidia").removeprefix("amd").removeprefix("geforce").removeprefix("instinct")


def _size(count: int) -> str:
    return f"{count // GIB} GiB GPU" if count % GIB == 0 else f"{format_bytes(count)} GPU"
