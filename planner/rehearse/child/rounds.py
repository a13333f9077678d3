"""Tells when a loop's batches do nothing new, and how many of those to come need not be run.

A batch asks for tensors and gives some back. Where some in a row asked for the same in the same order, and the last one
left every tensor where one of them left it, all that came since comes again: the allocator stands where it stood then,
and so does the library's loop, as far as memory tells. Whatever differs, and whatever is not known, is run.
"""

from collections import deque
from collections.abc import Hashable
from typing import Protocol

from planner.rehearse.child.books import Deeds, TensorBooks

PERIODS = (1, 2)
"""Two names that are bound in turn make pairs of batches."""
LONGEST = 64
"""Batches after which tensors may lie as before: some come round in 6, 8, 12, or 24."""
LAST = 2
"""Batches that are run at the end, whatever was passed over."""


Batch = tuple[Hashable, int]
"""What it did, and where tensors lie since."""


class LoopBatches(Protocol):
    """What a loop's batches are, and what one that is not run would leave on the CPU."""

    def __len__(self) -> int: ...

    def kind(self, number: int) -> Hashable | None:
        """Equal for batches whose inputs are equal in all that memory may depend on; None: nobody knows."""

    def effect(self, done: Deeds) -> Hashable | None:
        """What the batch that has just been run left behind; None where that is not all known."""

    def pass_over(self, number: int, like: int, done: Deeds) -> None:
        """Leave behind what batch `number` would, which does what batch `like` has done."""


class LoopRounds:
    """One loop."""

    passed = 0
    """Batches that were passed over, in all loops."""

    def __init__(self, books: TensorBooks, batches: LoopBatches, patience: int) -> None:
        self._books, self._batches, self._patience = books, batches, patience
        self._done: list[Batch | None] = []
        self._deeds: deque[Deeds] = deque(maxlen=max(PERIODS))
        """Of the last batches that were run."""
        self._kinds: dict[int, Hashable | None] = {}

    def begin(self, number: int) -> int:
        """Batch `number` is about to be run; returns how many from it on were passed over instead."""
        deeds = self._books.batch()
        effect = self._batches.effect(deeds) if number else None
        self._deeds.append(deeds)
        is_quiet = effect is not None and not deeds.questions
        self._done.append(((deeds._replace(held=0), effect), deeds.held) if is_quiet else None)
        asked, period = settled(self._done, self._patience)
        times = self._times(number, asked) // period * period if period else 0
        self._kinds[number] = self._batches.kind(number)
        if not times:
            return 0
        self._books.again(asked, times // asked)
        for ahead in range(times):
            ago = asked - ahead % asked
            self._batches.pass_over(number + ahead, number - ago, self._deeds[-ago])
        LoopRounds.passed += times
        self._done.clear()
        self._kinds[number + times] = self._kinds[number]
        return times

    def _times(self, number: int, asked: int) -> int:
        """How many batches from this one on have the inputs of those before; the batch behind them, too."""
        end = number
        while end < len(self._batches) - LAST + 1 and self._is_like_before(end, asked):
            end += 1
        return max(0, end - 1 - number)

    def _is_like_before(self, number: int, asked: int) -> bool:
        if number not in self._kinds:
            self._kinds[number] = self._batches.kind(number)
        kind = self._kinds[number]
        return kind is not None and kind == self._kinds.get(number - asked)


def settled(done: list[Batch | None], patience: int) -> tuple[int, int]:
    """(after how many batches the same is asked for again, after how many tensors lie as before); (0, 0): never yet.

    The same was asked for in the last `patience` batches, and in all since tensors lay so.
    """
    for asked in PERIODS:
        alike = _alike(done, asked)
        if alike < max(patience, 2 * asked):
            continue
        last = done[-1]
        for period in range(asked, min(alike, LONGEST) + 1, asked):
            before = done[-1 - period] if period < len(done) else None
            if before is not None and last is not None and before[1] == last[1]:
                return asked, period
    return 0, 0


def _alike(done: list[Batch | None], asked: int) -> int:
    """How many of the last batches did the same as those `asked` before each, with these."""
    alike = 0
    for one, before in zip(reversed(done), reversed(done[:-asked]), strict=False):
        if one is None or before is None or one[0] != before[0]:
            break
        alike += 1
    return alike + asked if alike else 0
