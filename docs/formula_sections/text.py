"""Markdown of numbers and tables."""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from planner.units import GB, GIB


def table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A table whose first `left` columns are texts, the others numbers."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def decimal(count: int | Fraction) -> str:
    """In GB, 10^9 bytes."""
    return _digits(Fraction(count) / GB)


def binary(count: int | Fraction) -> str:
    """In GiB, 2^30 bytes."""
    return _digits(Fraction(count) / GIB)


def memory(count: int | Fraction) -> str:
    """Bytes, and the same in both units."""
    exact = f"{int(count):,}" if Fraction(count).denominator == 1 else f"{float(count):,.1f}"
    if count < GB // 1000:
        return f"{exact} B"
    return f"{exact} B = {decimal(count)} GB = {binary(count)} GiB"


def plain(value: int | Fraction) -> str:
    """A number without a unit, with four digits or all it has before the point."""
    number = Fraction(value)
    return f"{int(number):,}" if number.denominator == 1 else _digits(number)


def _digits(value: Fraction) -> str:
    size = float(value)
    places = 2 if abs(size) >= 10 else 3 if abs(size) >= 1 else 4
    return f"{size:,.{places}f}"
