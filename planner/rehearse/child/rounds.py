"""Tells when a loop's batches do nothing new, and how many of those to come need not be run.

A batch asks for tensors and gives some back. Where some in a row asked for the same, got the same addresses, and left
every card as those before them did, the next one does that again: the allocator starts where it started then. So does
the library's loop, as far as memory tells. Whatever differs, and whatever is not known, is run.
"""

from collections.abc import Hashable
from typing import Protocol

from planner.rehearse.child.books import Deeds, TensorBooks

PERIODS = (1, 2, 4)
"""Two names that are bound in turn make pairs of batches; two blocks that change places, pairs of pairs."""
LAST = 2
"""Batches that are run at the end, whatever was passed over."""


class Batches(Protocol):
    """What a loop's batches are, and what one that is not run would leave on the CPU."""

    def __len__(self) -> int: ...

    def kind(self, number: int) -> Hashable | None:
        """Equal for batches whose inputs are equal in all that memory may depend on; None: nobody knows."""

    def effect(self, done: Deeds) -> Hashable | None:
        """What the batch that has just been run left behind; None where that is not all known."""

    def pass_over(self, number: int, done: Deeds) -> None:
        """Leave behind what batch `number` would."""


class Rounds:
    """One loop."""

    passed = 0
    """Batches that were passed over, in all loops."""

    def __init__(self, books: TensorBooks, batches: Batches, patience: int) -> None:
        self._books, self._batches, self._patience = books, batches, patience
        self._done: list[Hashable | None] = []
        self._kinds: dict[int, Hashable | None] = {}

    def begin(self, number: int) -> int:
        """Batch `number` is about to be run; returns how many from it on were passed over instead."""
        deeds = self._books.batch()
        effect = self._batches.effect(deeds) if number else None
        is_quiet = effect is not None and not deeds.questions
        self._done.append((deeds, effect) if is_quiet else None)
        period = settled(self._done, self._patience)
        times = self._times(number, period) if period else 0
        self._kinds[number] = self._batches.kind(number)
        if not times:
            return 0
        self._books.again(period, times)
        for each in range(number, number + period * times):
            self._batches.pass_over(each, deeds)
        Rounds.passed += period * times
        self._done.clear()
        self._kinds[number + period * times] = self._kinds[number]
        return period * times

    def _times(self, number: int, period: int) -> int:
        """How many rounds from this batch on have the inputs of the last one; the batch behind them, too."""
        end = number
        while end < len(self._batches) - LAST + 1 and self._is_like_last(end, period):
            end += 1
        return max(0, end - 1 - number) // period

    def _is_like_last(self, number: int, period: int) -> bool:
        kind = self._kinds.setdefault(number, self._batches.kind(number))
        return kind is not None and kind == self._kinds.get(number - period)


def settled(done: "list[Hashable | None]", patience: int) -> int:
    """After how many batches all comes again: the least of which the last two rounds, and `patience` batches, did the
    same as those before them; 0 where there is none."""
    for period in PERIODS:
        window = done[-max(2 * period, patience) :]
        if len(window) < max(2 * period, patience) or None in window:
            continue
        if all(one == other for one, other in zip(window, window[period:], strict=False)):
            return period
    return 0
