from bisect import bisect_right
from collections.abc import Callable
from math import isqrt

from hypothesis import given
from hypothesis import strategies as st

from planner.serving.search import Squeezed, largest

SHAPES: dict[str, Callable[[int], int]] = {
    "even": lambda number: 3 * number + 1000,
    "blocks": lambda number: -(-number // 16) * 16,
    "square": lambda number: number * number,
    "root": lambda number: isqrt(number),
    "flat, then steep": lambda number: max(0, number - 5000) ** 2,
    "one step": lambda number: 10**6 * (number > 7777),
    "steep, then flat": lambda number: min(number, 2000) ** 2 + number,
}


@given(limit=st.integers(0, 10**6), most=st.integers(1, 10**6), start=st.integers(1, 2 * 10**6))
def test_the_largest_that_fits_is_found_wherever_the_search_begins(limit: int, most: int, start: int) -> None:
    assert largest(lambda number: number, limit, most, start) == min(limit, most)


@given(
    shape=st.sampled_from(sorted(SHAPES)),
    limit=st.integers(1, 10**5),
    most=st.integers(1, 10**5),
    start=st.integers(1, 10**5),
)
def test_the_largest_that_fits_is_found_however_sizes_grow(shape: str, limit: int, most: int, start: int) -> None:
    size = SHAPES[shape]
    asked: list[int] = []

    def noted(number: int) -> int:
        asked.append(number)
        return size(number)

    found = largest(noted, size(limit), most, start)
    assert found == bisect_right(range(1, most + 1), size(limit), key=size)
    assert len(asked) == len(set(asked)) < 60
    assert all(1 <= number <= most for number in asked)


def test_sizes_that_grow_evenly_are_asked_for_rarely() -> None:
    asked: list[int] = []

    def even(number: int) -> int:
        asked.append(number)
        return 17 * number + 10**9

    assert largest(even, 17 * 98_765 + 10**9, 163_840, 4096) == 98_765
    assert len(asked) < 7


def test_nothing_is_asked_above_the_most() -> None:
    asked: list[int] = []

    def nothing(number: int) -> int:
        asked.append(number)
        return 0

    assert largest(nothing, 0, 163_840) == 163_840
    assert max(asked) == 163_840
    assert len(asked) < 40


def test_where_not_even_one_fits_the_answer_is_zero() -> None:
    assert largest(lambda number: number, 0, 100) == 0
    assert largest(lambda _: 0, 1, 0) == 0


def test_activations_are_asked_twice_where_the_context_does_not_matter() -> None:
    asked: list[int] = []

    def constant(tokens: int, context: int, *, batch: int = 1, attention: object = "", shards: int = 1) -> int:
        asked.append(context)
        return 100 * tokens

    squeezed = Squeezed(constant, 10_000)
    assert [squeezed(7, context) for context in (50, 60, 9_000, 10_000)] == [700] * 4
    assert asked == [50, 10_000]


@given(contexts=st.lists(st.integers(8, 10_000), min_size=1, max_size=20), knee=st.integers(1, 10_000))
def test_squeezed_activations_are_those_that_were_asked_for(contexts: list[int], knee: int) -> None:
    def growing(tokens: int, context: int, *, batch: int = 1, attention: object = "", shards: int = 1) -> int:
        return tokens + min(context, knee)

    squeezed = Squeezed(growing, 10_000)
    assert [squeezed(8, context) for context in contexts] == [growing(8, context) for context in contexts]
