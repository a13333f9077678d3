"""Bytes in table cells."""

from planner.units import GIB


def number(count: int, decimals: int) -> str:
    """Bytes in GiB; `-` for none at all, which is not the same as very little."""
    return f"{count / GIB:,.{decimals}f}" if count else "-"


def decimals_for(largest: int) -> int:
    """Decimals that suit a column whose largest entry is this."""
    return 3 if largest < GIB else 2


def smallest_shown(decimals: int) -> int:
    """The fewest bytes that do not round to zero."""
    return -(-GIB // (2 * int(10**decimals)))
