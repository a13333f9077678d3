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


def test_a_plans_note_counts_the_jobs_on_several_gpus_that_were_measured() -> None:
    run: Any = SimpleNamespace(spec=SimpleNamespace(trains=True, where="my.yaml", spreads_over=(0, 1)))
    (note,) = cards_notes([run], {1: GIB}, 1)
    equal = sum(cards > 1 for *_, cards, _ in autoround.SPREAD_JOBS)
    others = len(apart.SPREAD)
    assert f"Of {equal + others} such jobs" in note.text
    assert f" {equal} came out as planned" in note.text
    assert f"Of the {others} others" in note.text
