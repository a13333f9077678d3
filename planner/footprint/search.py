"""The largest number that still fits, for a size that never shrinks as the number grows."""

from collections.abc import Callable


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, 0 where even 1 does not.

    `fits` must be true up to some number and false from there on; it is asked about 2 log2(result) times.
    """
    if most < 1 or not fits(1):
        return 0
    good, bad = 1, 2
    while bad <= most and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
