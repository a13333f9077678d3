"""Jobs that are in no table are told of, in the page and in a plan's note."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from planner.compress.tuning import cards_notes
from planner.units import GIB
from tests.measured import apart, autoround

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"


def test_the_page_lists_them() -> None:
    assert apart.part() in PAGE.read_text(encoding="utf-8")


def note_of(more: dict[int, int]) -> str:
    run: Any = SimpleNamespace(spec=SimpleNamespace(trains=True, where="my.yaml", spreads_over=(0, 1)))
    (note,) = cards_notes([run], {1: GIB}, 1, more)
    return note.text


def test_a_plans_note_counts_the_jobs_on_several_gpus_that_were_measured() -> None:
    equal = sum(cards > 1 for *_, cards, _ in autoround.SPREAD_JOBS)
    assert f"Of {equal + len(apart.SPREAD)} such jobs" in note_of({})
    assert f" {equal} came out as planned" in note_of({})


def test_a_plans_note_says_what_another_order_of_threads_takes() -> None:
    assert "up to 512.00 MiB more on GPU 0 and 2.000 GiB more on GPU 1. Of 15" in note_of({1: 2 * GIB, 0: GIB // 2})
    assert "Autograd has a thread" not in note_of({})
