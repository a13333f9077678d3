from hypothesis import given
from hypothesis import strategies as st

from planner.serving.search import Squeezed, largest


@given(limit=st.integers(0, 10**6), most=st.integers(1, 10**6), start=st.integers(1, 2 * 10**6))
def test_the_largest_that_fits_is_found_wherever_the_search_begins(limit: int, most: int, start: int) -> None:
    assert largest(lambda number: number <= limit, most, start) == min(limit, most)


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


def test_activations_are_asked_twice_where_the_context_does_not_matter() -> None:
    asked: list[int] = []

    def constant(tokens: int, context: int, *, batch: int = 1, attention: object = "", shards: int = 1) -> int:
        asked.append(context)
        return 100 * tokens

    squeezed = Squeezed(constant, 10_000)
    assert [squeezed(7, context) for context in (50, 60, 9_000, 10_000)] == [700] * 4
    assert asked == [10_000, 50]


@given(contexts=st.lists(st.integers(8, 10_000), min_size=1, max_size=20), knee=st.integers(1, 10_000))
def test_squeezed_activations_are_those_that_were_asked_for(contexts: list[int], knee: int) -> None:
    def growing(tokens: int, context: int, *, batch: int = 1, attention: object = "", shards: int = 1) -> int:
        return tokens + min(context, knee)

    squeezed = Squeezed(growing, 10_000)
    assert [squeezed(8, context) for context in contexts] == [growing(8, context) for context in contexts]
