"""The search for the largest value that fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.choose.boundary import last_fitting, used_up_at
from planner.hardware.demand import Demand


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.lists(st.one_of(st.none(), st.integers(-5, 20_000))))
def test_the_last_value_that_fits_is_found_whatever_is_guessed(last: int, more: int, guesses: list[int | None]) -> None:
    tried: list[int] = []

    def fits(value: int) -> bool:
        tried.append(value)
        return value <= last

    said = iter(guesses)
    assert last_fitting(fits, lambda *_: next(said, None), 0, last + more) == last
    assert len(tried) == len(set(tried))
    assert all(0 < value < last + more for value in tried)


def test_where_not_even_one_fits_nothing_else_is_tried() -> None:
    tried: list[int] = []
    assert last_fitting(lambda value: bool(tried.append(value)), lambda *_: None, 0, 1000) == 0
    assert tried == [1]


@given(st.integers(1, 2**16), st.integers(0, 10**9), st.integers(1, 10**6), st.integers(0, 2**16))
def test_what_grows_evenly_is_known_after_two_trials(last: int, base: int, each: int, less: int) -> None:
    tried, has = 0, base + last * each + each // 2

    def fits(value: int) -> bool:
        nonlocal tried
        tried += 1
        return value <= last

    fitting = max(last - less, 0)
    asked = [demand(base + fitting * each, has)] if fitting else []
    guessed = used_up_at(fitting, asked, 2 * last, [demand(base + 2 * last * each, has)])
    assert guessed == last or not fitting
    assert last_fitting(fits, lambda *_: last, fitting, 2 * last) == last
    assert tried <= (2 if fitting else 3)


@pytest.mark.parametrize(("asked", "over", "has"), [(5, 5, 4), (6, 5, 4), (5, 6, None)])
def test_of_what_does_not_grow_nothing_is_guessed(asked: int, over: int, has: int | None) -> None:
    assert used_up_at(1, [demand(asked, has)], 9, [demand(over, has)]) is None


def demand(at_least: int, has: int | None) -> Demand:
    return Demand(resource="RAM", needs_bytes=at_least, at_least_bytes=at_least, has_bytes=has, outcome="over", what="")
