"""How values of a job are written on a command line, planner's or the meter's, and read back."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from planner.errors import JobError
from planner.units import GIB, parse_bytes

_SIDES = re.compile(r"(\d{1,9})\s*[xX]\s*(\d{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How a value of the record is written on a command line, and read back."""

    read: Callable[[Any], Any]
    """From the command line to the record. Raises JobError for a text that it cannot read."""
    write: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _read_size(text: str) -> tuple[int, int]:
    match = _SIDES.fullmatch(text.strip())
    if match is None:
        raise JobError(f"{text!r} is not a size; write height x width in pixels, like 448x448")
    return int(match[1]), int(match[2])


def _read_names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise JobError(f"{text!r} is not a list; write class names with commas between, like A,B")
    return names


def _read_bytes(text: str | None) -> int | None:
    return None if text is None else parse_bytes(text)


def _write_bytes(count: int | None) -> str | None:
    if count is None:
        return None
    return f"{count} B" if count % GIB else f"{count // GIB}GiB"


AS_IT_IS = Spelling(read=_same, write=_same)
NEGATED = Spelling(read=lambda left_out: not left_out, write=lambda on: not on)
SIDES = Spelling(read=_read_size, write=lambda size: f"{size[0]}x{size[1]}")
NAMES = Spelling(read=_read_names, write=lambda names: names and ",".join(names))
BYTES = Spelling(read=_read_bytes, write=_write_bytes)
# The meter calls the GPU `cuda`, and takes sizes as plain numbers of GiB.
METER_DEVICE = Spelling(
    read=lambda device: device.replace("cuda", "gpu"), write=lambda device: device.replace("gpu", "cuda")
)
METER_MAP = Spelling(
    read=lambda device: {"cuda": "gpu", "auto_offload": "disk"}.get(device, device),
    write=lambda place: {"gpu": "cuda", "disk": "auto_offload"}.get(place, place),
)
# The meter is told of ranks only where there are some, and calls their absence 0.
METER_RANKS = Spelling(read=lambda ranks: ranks or 1, write=lambda ranks: ranks if ranks > 1 else None)
METER_GIB = Spelling(
    read=lambda gib: None if gib is None else int(gib * GIB),
    write=lambda count: None if count is None else count / GIB,
)
