"""What docs say of other releases is what was recorded."""

from planner.upstream import LLMCOMPRESSOR_VERSION
from tests.measured.accuracy import PAGE
from tests.measured.releases import part, recorded


def test_the_page_has_what_was_recorded() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(part())


def test_the_release_that_plans_are_for_is_as_planned_and_the_one_before_it_is_not() -> None:
    found = {drift.versions["llmcompressor"]: drift for drift in recorded()}
    assert not found.pop(LLMCOMPRESSOR_VERSION).is_off
    assert found
    assert all(drift.is_off and drift.planned_for == LLMCOMPRESSOR_VERSION for drift in found.values())
