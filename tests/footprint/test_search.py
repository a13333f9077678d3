from hypothesis import given
from hypothesis import strategies as st

from planner.footprint.search import largest


@given(limit=st.integers(0, 10**6), most=st.integers(1, 10**6))
def test_the_largest_that_fits_fits_and_one_more_does_not(limit: int, most: int) -> None:
    assert largest(lambda number: number <= limit, most) == min(limit, most)


def test_nothing_is_asked_above_the_most() -> None:
    asked: list[int] = []

    def fits(number: int) -> bool:
        asked.append(number)
        return True

    assert largest(fits, 163_840) == 163_840
    assert max(asked) == 163_840
    assert len(asked) < 40


def test_where_not_even_one_fits_the_answer_is_zero() -> None:
    assert largest(lambda _: False, 100) == 0
    assert largest(lambda _: True, 0) == 0
