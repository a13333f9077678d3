"""The largest number that still fits, for a size that never shrinks as the number grows."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from planner.serving.activations import Activations, Attention


def largest(fits: Callable[[int], bool], most: int, start: int = 1) -> int:
    """The largest number from 1 to `most` that fits, 0 where even 1 does not.

    `fits` must be true up to some number and false from there on; the search begins at `start`.
    """
    if most < 1:
        return 0
    good, bad = 0, min(max(1, start), most)
    while bad <= most and fits(bad):
        good, bad = bad, min(2 * bad, most) if bad < most else most + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


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

        if not found and attention == "flash":
            ask(max(self.most, context))
        lengths = sorted(found)
        above = bisect_left(lengths, context)
        if 0 < above < len(lengths) and found[lengths[above - 1]] == found[lengths[above]]:
            return found[lengths[above]]
        return ask(context)
