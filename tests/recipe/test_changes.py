"""--set: fields of a recipe's modifiers that are others than the recipe says."""

import pytest

from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.recipes import load_recipe
from planner.errors import RecipeError
from planner.recipe.changes import parse_changes, written


def test_a_changed_field_is_read_as_if_the_recipe_had_it() -> None:
    (spec,) = load_recipe("gptq_w4a16", parse_changes(["GPTQModifier.block_size=64"])).modifiers
    assert isinstance(spec, GPTQSpec)
    assert spec.block_size == 64
    assert spec.batched_quantization == "auto"


def test_values_are_written_as_they_are_read() -> None:
    changes = {
        "GPTQModifier.block_size": 64,
        "GPTQModifier.actorder": None,
        "GPTQModifier.ignore": ["lm_head", "re:.*a"],
    }
    assert parse_changes(written(changes)) == changes


@pytest.mark.parametrize("text", ["block_size=64", "GPTQModifier.block_size", ".x=1", "GPTQModifier.x={"])
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        parse_changes([text])


def test_a_modifier_that_the_recipe_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(RecipeError, match=r"has no SparseGPTModifier to set.*it has GPTQModifier"):
        load_recipe("gptq_w4a16", {"SparseGPTModifier.block_size": 64})


def test_a_value_that_the_library_refuses_is_refused_by_its_place() -> None:
    with pytest.raises(RecipeError, match=r"GPTQModifier.batched_quantization.*must be auto"):
        load_recipe("gptq_w4a16", {"GPTQModifier.batched_quantization": 0})
