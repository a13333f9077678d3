"""Which questions a page may ask next: one move of a slider, or another card."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from planner.job import Job
from planner.ui.question import PageQuestion
from planner.ui.stops import beside, cards

CARD = "gpu"
MOVED = ("samples", "seq_len", "batch_size", CARD)
"""What a move of asks for another simulation: RAM and disk are held against the same plan."""


@dataclass(frozen=True, slots=True)
class Move:
    """What was moved last, and where to."""

    field: str
    is_up: bool


Lane = Sequence[PageQuestion]
"""What a move of one field in one direction comes to, the nearest first."""


def moves(question: PageQuestion, move: Move | None = None) -> Iterator[Lane]:
    """What can be asked next, first by going on as this move went; up goes before down where there was none.

    Cards come twice: one simulation does for many of them, so that four do for most.
    """
    first = () if move is None else (move.field,)
    for field in (*first, *(each for each in MOVED if each not in first)):
        below, above = _beside(question, field)
        sides = (below, above) if move and not move.is_up and field == move.field else (above, below)
        yield from sides * 2 if field == CARD else sides


def moved(before: PageQuestion, now: PageQuestion) -> Move | None:
    """The one field that was moved; None where it was another, or several."""
    values = {field: (_value(before, field), _value(now, field)) for field in MOVED}
    changed = [field for field, (old, new) in values.items() if old != new]
    if len(changed) != 1 or before.model != now.model or before.recipe != now.recipe:
        return None
    (field,), (old, new) = changed, values[changed[0]]
    return Move(field, is_up=_rank(field, new) > _rank(field, old))


def _beside(question: PageQuestion, field: str) -> tuple[Lane, Lane]:
    """What comes below, and what comes above."""
    if field == CARD:
        at, all_cards = int(_rank(CARD, question.gpu)), cards()
        sides = (all_cards[:at][::-1], all_cards[at + 1 :]) if at >= 0 else ((), ())  # a size that somebody typed
        smaller, larger = ([_with(question, CARD, card.name) for card in side] for side in sides)
        return smaller, larger
    stops = beside(field, _rank(field, _value(question, field)))
    below, above = ([] if stop is None else [_with(question, field, stop)] for stop in stops)
    return below, above


def _value(question: PageQuestion, field: str) -> Any:
    return question.gpu if field == CARD else question.job.get(field, Job.model_fields[field].default)


def _rank(field: str, value: Any) -> float:
    """Where the value is on its way up; -1 for a card that is not in the table."""
    if field != CARD:
        return float(value)
    return next((number for number, card in enumerate(cards()) if card.name == value), -1)


def _with(question: PageQuestion, field: str, value: Any) -> PageQuestion:
    """The question after a move."""
    changes = {CARD: value} if field == CARD else {"job": {**question.job, field: value}}
    return question.model_copy(update=changes)
