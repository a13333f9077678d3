"""Bytes in table cells."""

from planner.units import GIB, format_bytes


def number(count: int, decimals: int) -> str:
    """Bytes in GiB; `-` for zero bytes, so that they differ from a few bytes rounded to 0."""
    return f"{count / GIB:,.{decimals}f}" if count else "-"


def decimals_for(largest: int) -> int:
    """Number of decimals for a column whose largest entry has this many bytes."""
    return 3 if largest < GIB else 2


def smallest_shown(decimals: int) -> int:
    """The fewest bytes that do not round to zero."""
    return -(-GIB // (2 * int(10**decimals)))


def gib(count: int) -> str:
    """Bytes in GiB with the unit, readable at every size: 0.012 GiB, 3.77 GiB, 1,249.8 GiB."""
    return format_bytes(count, "GiB")


def gib_short(count: int) -> str:
    """Bytes in GiB, without decimals where they are all zero: 80 GiB, 22.35 GiB."""
    return f"{count // GIB:,} GiB" if count % GIB == 0 else gib(count)
