"""Where the page's sliders stop, and in which order it lists its cards: for the page, and for whoever plans ahead."""

from collections.abc import Mapping, Sequence
from functools import cache
from math import log2

from planner.hardware import list_gpus
from planner.hardware.gpus import Gpu
from planner.units import GIB


def _octaves(least: int, most: int, parts: int, unit: int) -> tuple[int, ...]:
    """Every octave from `least` to `most` in so many parts, in whole units."""
    steps = round(log2(most / least) * parts)
    exact = (least * 2 ** (step / parts) for step in range(steps + 1))
    return tuple(dict.fromkeys(max(unit, round(value / unit) * unit) for value in exact))


STOPS: Mapping[str, Sequence[int]] = {
    "samples": _octaves(8, 4096, 4, 4),
    "seq_len": _octaves(128, 32768, 4, 64),
    "batch_size": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    "ram": _octaves(8, 4096, 2, 4),
}
"""By the name of the field, ascending."""


def beside(field: str, value: float) -> tuple[int | None, int | None]:
    """The values that the slider gives one stop below and one above; None at an end.

    A slider stands at the stop that is nearest to a typed value, and moves from there.
    """
    stops = STOPS[field]
    at = min(range(len(stops)), key=lambda index: abs(stops[index] - value))
    return stops[at - 1] if at else None, stops[at + 1] if at + 1 < len(stops) else None


@cache
def cards() -> tuple[Gpu, ...]:
    """Every card of the table, the smallest first."""
    return tuple(sorted(list_gpus(), key=lambda card: (gib(card), card.name.lower())))


def gib(card: Gpu) -> float:
    """What CUDA has of the card, as the page says it."""
    return round(card.memory_bytes / GIB, 2)
