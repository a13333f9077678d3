"""Bytes to text and back. GiB is 2**30 bytes, GB is 10**9: the two never mix silently."""

import math
import re

from planner.errors import JobError
from planner.hints import shorten

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12

BLOCK = 512
"""Bytes. PyTorch's caching allocator hands out multiples of this (c10/cuda/CUDACachingAllocator.cpp kMinBlockSize)."""

BOOL = 1
FP32 = INT32 = 4
FP64 = INT64 = 8
"""Bytes of one element."""

_UNITS = {
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
    "kb": KB,
    "mb": MB,
    "gb": GB,
    "tb": TB,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)?\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read `24GiB`, `80 GB`, `512MiB` or a plain number of bytes; a bare letter is refused.

    Raises JobError for anything else, for zero, and for a number below 1 MiB without a unit, which
    nobody means in bytes.
    """
    match = _SIZE.fullmatch(text)
    unit = (match[2] or "b").lower() if match else ""
    if match is None or unit not in _UNITS:
        raise JobError(f"{shorten(text)!r} is not a size; write it like 24GiB (2^30 bytes) or 24GB (10^9 bytes)")
    value = float(match[1]) * _UNITS[unit]
    if not math.isfinite(value):
        raise JobError(f"{shorten(text)!r} is larger than any memory")
    size = int(value)
    if size <= 0:
        raise JobError(f"{text!r} is not a positive size")
    if not match[2] and size < MIB:
        raise JobError(f"{text!r} has no unit and would be {size} bytes; write {match[1]}GiB or {match[1]}GB")
    return size


def format_bytes(count: int, unit: str = "GiB") -> str:
    """A number of bytes in one named unit, with three significant decimals at most."""
    size = _UNITS[unit.lower()]
    value = count / size
    digits = 2 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f} {unit}"


def human_bytes(count: int) -> str:
    """A number of bytes in the largest binary unit that keeps it above one."""
    for unit, size in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= size:
            return format_bytes(count, unit)
    return f"{count} B"


def in_blocks(nbytes: int) -> int:
    """From requested to allocated bytes: rounded up to whole blocks."""
    return -(-nbytes // BLOCK) * BLOCK
