"""Python's garbage collector: seldom while a plan is made, and as before afterwards."""

import gc
from collections.abc import Iterator

import pytest

from planner.collector import THRESHOLDS, seldom_collected


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_the_collector_looks_seldom_and_then_as_before_even_when_planning_fails() -> None:
    gc.set_threshold(700, 10, 10)
    with pytest.raises(ZeroDivisionError), seldom_collected():
        assert gc.get_threshold() == THRESHOLDS
        raise ZeroDivisionError
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("chosen", [(0, 10, 10), (10**9, 1, 1)])
def test_who_wants_it_off_or_looking_more_seldom_keeps_it(chosen: tuple[int, int, int]) -> None:
    gc.set_threshold(*chosen)
    with seldom_collected():
        assert gc.get_threshold() == chosen
