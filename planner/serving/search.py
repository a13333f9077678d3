"""The largest number that still fits, for a size that never shrinks as the number grows."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from planner.serving.activations import Activations, Attention

PATIENCE = 1
"""Slow steps along the line before the search halves what is open."""
REACH = 8
"""Times the largest known to fit: how far the search goes beyond it in one step. What a forward of far too many tokens
takes may be long to find out."""


def largest(size: Callable[[int], int], room: int, most: int, start: int = 1) -> int:
    """The largest number from 1 to `most` whose size is at most `room`, 0 where even 1 is too large.

    `size` never shrinks as the number grows, and mostly grows evenly, so that a line through two known sizes leads
    close to the answer; where it does not, the bracket is halved. The search begins at `start`.
    """
    if most < 1:
        return 0
    bracket = _Bracket(room, most)
    number = min(max(1, start), most)
    while bracket.is_open:
        bracket.add(number, size(number))
        number = bracket.next()
    return bracket.fits


@dataclass(slots=True)
class _Bracket:
    """The largest number known to fit, the smallest known not to, and what to try between them."""

    room: int
    most: int
    fits: int = 0
    fails: int = 0
    """0 until a number was too large."""
    sizes: dict[int, int] = field(default_factory=dict)
    slow: int = 0
    """Steps in a row that left more than half of what was open."""

    @property
    def end(self) -> int:
        """The smallest number that need not be tried."""
        return self.fails or self.most + 1

    @property
    def is_open(self) -> bool:
        return self.end - self.fits > 1

    def add(self, number: int, size: int) -> None:
        """Note the size of a number that lies in what is open."""
        before = self.end - self.fits
        self.sizes[number] = size
        if size <= self.room:
            self.fits = number
        else:
            self.fails = number
        self.slow = 0 if 2 * (self.end - self.fits) <= before else self.slow + 1

    def next(self) -> int:
        """What to try: 1 where nothing fits yet, else where the line leads; where that is nowhere, the middle, or twice
        the largest that fits.
        """
        if not self.fits:
            return 1
        line = self._line()
        if line is None or self.slow > PATIENCE:
            self.slow = 0
            return (self.fits + self.fails) // 2 if self.fails else min(2 * self.fits, self.most)
        reach = self.fails - 1 if self.fails else min(self.most, REACH * self.fits)
        return min(max(line, self.fits + 1), reach)

    def _line(self) -> int | None:
        """Where the line through the two known numbers next to the answer reaches the room; None where none rises."""
        known = sorted(self.sizes)
        nearest = [n for n in known if n <= self.fits][-2:] + [n for n in known if n == self.fails]
        if len(nearest) < 2:
            return None
        first, second = nearest[-2:]
        rise = self.sizes[second] - self.sizes[first]
        return first + (self.room - self.sizes[first]) * (second - first) // rise if rise > 0 else None


@dataclass(frozen=True, slots=True)
class Squeezed:
    """Activations that are asked as rarely as can be: they never shrink as the context grows.

    Between two contexts of equal size every context has that size; with flash attention that is nearly all of them.
    """

    activations: Activations
    most: int
    """The longest context that will be asked for."""
    known: dict[tuple[object, ...], dict[int, int]] = field(default_factory=dict)

    def __call__(
        self, tokens: int, context: int, *, batch: int = 1, attention: Attention = "flash", shards: int = 1
    ) -> int:
        """See `planner.serving.activations.Activations`."""
        found = self.known.setdefault((tokens, batch, attention, shards), {})

        def ask(length: int) -> int:
            if length not in found:
                found[length] = self.activations(tokens, length, batch=batch, attention=attention, shards=shards)
            return found[length]

        if found and attention == "flash":  # as many tokens a second time: a longer context may take the same
            ask(max(self.most, context))
        lengths = sorted(found)
        above = bisect_left(lengths, context)
        if 0 < above < len(lengths) and found[lengths[above - 1]] == found[lengths[above]]:
            return found[lengths[above]]
        return ask(context)
