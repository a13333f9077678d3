"""AWQ's grid search: every point quantizes the same weights and runs the same samples. Those that do nothing new are
passed over.

llmcompressor/modifiers/transform/awq/base.py _compute_best_scale loops over what _get_grid_search_params returns. What
it keeps of a point are numbers, and scales in the place of those before.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from planner.rehearse.child.books import Deeds, TensorBooks
from planner.rehearse.child.rounds import LoopRounds

PATIENCE = 4
SPECIAL = (0.0, 0.5, 1.0, 2.0)
"""Exponents for which PyTorch calls other kernels (aten/src/ATen/native/Pow.cpp, cuda/PowKernel.cu)."""


class GridPoints(list[Any]):
    """The points, and what a loop over them does."""

    def __init__(self, points: Any, books: TensorBooks, rounds: Callable[["GridPoints"], LoopRounds | None]) -> None:
        super().__init__(points)
        self._books, self._rounds = books, rounds

    def __iter__(self) -> Iterator[Any]:
        rounds, number = self._rounds(self), 0
        while number < len(self):
            if rounds is None:
                self._books.batch()
            else:
                number += rounds.begin(number)
            yield self[number]
            number += 1
        self._books.rounds_end()

    def kind(self, number: int) -> Hashable | None:
        """Which kernels the point's exponent takes, and whatever else it says."""
        point = self[number]
        if not isinstance(point, tuple) or not point or not isinstance(point[0], float):
            return None
        ratio, *more = point
        return tuple(each if each in SPECIAL else None for each in (ratio, 1 - ratio)), *more

    def effect(self, done: Deeds) -> Hashable | None:
        """Nothing, or it is not known what."""
        is_nothing = not (done.change or done.large_taken or done.large_given)
        return () if is_nothing else None

    def pass_over(self, number: int, like: int, done: Deeds) -> None:
        """Only the books rise and fall."""
        self._books.rise(done.rise)


def install(module: Any, books: TensorBooks, passing: Any) -> None:
    """Wrap the search's parameters and what runs its samples, where this release has such functions."""
    owner: Any = getattr(module, "AWQModifier", None)
    points, samples = (getattr(owner, name, None) for name in ("_get_grid_search_params", "_run_samples"))
    if points is not None:
        owner._get_grid_search_params = lambda modifier: GridPoints(points(modifier), books, passing.points)
    if samples is not None:
        owner._run_samples = lambda modifier, called: samples(modifier, passing.called(called))
