"""Notes are sentences with a kind."""

import pytest
from pydantic import ValidationError

from planner.notes import Note, texts


def test_what_is_said_twice_is_read_once_in_the_order_it_was_first_said() -> None:
    notes = [Note(kind="job", text="b"), Note(kind="model", text="a"), Note(kind="recipe", text="b")]
    assert texts(notes) == ("b", "a")


def test_a_note_has_a_kind_that_readers_know() -> None:
    with pytest.raises(ValidationError):
        Note(kind="hint", text="a")  # type: ignore[arg-type]  # mypy refuses it too
