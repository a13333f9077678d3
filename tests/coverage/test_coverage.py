"""The recipes of LLM Compressor's repository: read anew, a few planned anew, all as docs/coverage.md says."""

import json

import pytest

from planner.compress.recipes import recipe_from_dict
from planner.errors import PlannerError, RecipeError
from tests.coverage.cover import OUTCOMES, PAGE, Row, as_mapping, outcome, page, rows

ROWS = rows()
README = PAGE.parents[1] / "README.md"
TOLD: list[Row] = json.loads(OUTCOMES.read_text(encoding="utf-8"))
ONESHOT = [number for number, row in enumerate(ROWS) if row.get("call") == "oneshot"]


def test_every_recipe_has_its_outcome_and_the_page_shows_them() -> None:
    assert [told["source"] for told in TOLD] == [row["source"] for row in ROWS]
    assert PAGE.read_text(encoding="utf-8") == page(TOLD)


def test_what_is_planned_is_read_and_what_cannot_be_read_is_refused_with_these_words() -> None:
    for number in ONESHOT:
        told = TOLD[number]
        try:
            recipe = recipe_from_dict(as_mapping(ROWS[number]["recipe"]), "recipe mapping")
        except PlannerError as error:
            kind = "fails" if isinstance(error, RecipeError) else "refused"
            assert (told["outcome"], told["why"]) == (kind, str(error)), told["source"]
        else:
            assert [spec.type for spec in recipe.modifiers] == told["modifiers"]


def test_the_readme_says_how_many() -> None:
    done, stop = (sum(told["outcome"] == kind for told in TOLD) for kind in ("planned", "fails"))
    text = f"Of the {len(TOLD)} in LLM Compressor's own repository {done} are planned, and of {stop} a line says why"
    assert text in " ".join(README.read_text("utf-8").split())


@pytest.mark.parametrize("number", [n for n in ONESHOT if ROWS[n].get("model") is None][::12])
def test_a_recipe_of_the_tests_comes_out_as_it_did(number: int) -> None:
    assert outcome(ROWS[number]) == TOLD[number]
