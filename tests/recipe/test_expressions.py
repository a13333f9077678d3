"""Patterns that Python's `re` would never come back from: taken, noted, or refused in bounded time."""

import pytest

from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.errors import RecipeError
from planner.notes import texts
from planner.recipe import expressions
from planner.recipe.expressions import MAX_EXPRESSIONS, matcher, may_hang
from planner.recipe.files import list_recipes

NAME = "model.layers.0.mlp.experts.17.down_proj"
HANGING = [r"re:(([a-z._0-9]+)+)+!$", r"re:(.*)*lm_head_x$", r"re:.*.*.*.*.*.*.*x$", r"re:(a|a.*)+(.*m.*l.*p.*)+!?x$"]


def recipe(ignore: list[str]):
    fields = {"scheme": "W4A16", "targets": ["Linear"], "ignore": ignore}
    return recipe_from_dict({"quant_stage": {"quant_modifiers": {"QuantizationModifier": fields}}}, "given")


@pytest.mark.parametrize("pattern", HANGING)
def test_a_pattern_that_re_hangs_on_is_answered_or_refused(pattern: str) -> None:
    assert may_hang(pattern)
    try:
        assert not matcher(pattern)(NAME)
    except RecipeError as error:
        assert "repetitions inside repetitions" in str(error)


def test_a_pattern_out_of_time_says_which_and_over_which_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "SECONDS", 0.001)
    with pytest.raises(RecipeError, match=r"takes over 0.001 s to compare with model"):
        matcher(r"re:((\w|\.)+)+[!?]$")(".".join([NAME] * 40))


def test_a_repeated_group_is_a_note_because_the_library_may_hang() -> None:
    (note,) = (text for text in texts(recipe([r"re:(.*)*lm_head_x$"]).notes) if "take for ever" in text)
    assert "QuantizationModifier.ignore" in note


def test_what_recipes_usually_say_is_neither_slow_nor_noted() -> None:
    for pattern in ("re:.*lm_head", r"re:model\.layers\.[0-9]+\.mlp\.(gate|up)_proj$", r"re:.*layers\.(3|4)\..*"):
        assert not may_hang(pattern)
    for shipped in list_recipes():
        assert not any("take for ever" in text for text in texts(load_recipe(shipped.name).notes))


def test_more_expressions_than_anybody_compares_are_refused_and_names_are_not_counted() -> None:
    names = [f"model.layers.{i}.mlp" for i in range(50_000)]
    assert recipe(names).modifiers
    with pytest.raises(RecipeError, match="more than 1000 regular expressions"):
        recipe([f"re:.*{name}" for name in names[: MAX_EXPRESSIONS + 1]])
