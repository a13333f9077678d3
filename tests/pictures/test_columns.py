"""Lists of alike objects by columns: what comes out is what went in."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from planner.pictures.columns import by_columns, by_rows

KEYS = st.sampled_from(["a", "b", "gpu"])
LEAVES = st.none() | st.integers(-9, 9) | st.sampled_from(["", "x"])
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3))


@given(TREES)
def test_columns_become_the_same_rows_again(tree: Any) -> None:
    assert by_rows(json.loads(json.dumps(by_columns(tree)))) == tree


def test_a_field_is_written_once_for_all_objects_that_have_it() -> None:
    steps = [{"gpu": {"peak": number}, "largest": [{"bytes": number}] * 2} for number in range(3)]
    assert by_columns(steps) == {
        "$of": 3,
        "$columns": {
            "gpu": {"$of": 3, "$columns": {"peak": [0, 1, 2]}},
            "largest": {"$lengths": [2, 2, 2], "$all": {"$of": 6, "$columns": {"bytes": [0, 0, 1, 1, 2, 2]}}},
        },
    }
