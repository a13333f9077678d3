"""What `plan` and `compare` take: the same model, recipe and job in every form give the same plan."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from planner import Job, Plan, compare, load_model, load_recipe, plan
from planner.errors import JobError, ModelError, PlannerError, RecipeError
from planner.models.graph import ModelGraph
from planner.models.source import source_of

CONFIG = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
JOB = Job(samples=4, seq_len=64)
FIELDS = {"targets": ["Linear"], "scheme": "W4A16", "ignore": ["lm_head"]}
MAPPING = {"quant_stage": {"quant_modifiers": {"GPTQModifier": FIELDS}}}


class GPTQModifier(BaseModel):
    """As LLM Compressor's: a pydantic model with defaults of its own."""

    targets: list[str] = ["Embedding"]
    scheme: str | None = None
    ignore: list[str] = []
    not_a_field_of_recipes: int = 3


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return load_model(CONFIG, JOB)


@pytest.fixture(scope="module")
def planned(graph: ModelGraph) -> Plan:
    return plan(graph, MAPPING, JOB)


def figures(of: Plan) -> object:
    """All but the names of model and recipe, and what only a whole model has."""
    return of.gpu, of.cpu, of.steps, of.rule_of_thumb


def test_a_model_is_the_same_by_path_by_config_by_source_and_as_a_graph(tmp_path: Path, planned: Plan) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    for model in (path, str(path), CONFIG, source_of(CONFIG, "mine")):
        found = plan(model, MAPPING, JOB)
        assert figures(found) == figures(planned)
        assert found.result is not None
        assert found.notes == ()


def test_a_model_keeps_the_name_that_it_is_given(planned: Plan) -> None:
    assert planned.model.name == "llama"
    assert plan(source_of(CONFIG, "mine"), MAPPING, JOB).model.name == "mine"


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (MAPPING, "recipe mapping"),
        (json.dumps(MAPPING, indent=1), "recipe text"),
        (load_recipe(json.dumps(MAPPING, indent=1)), "recipe text"),
        (load_recipe(json.dumps(MAPPING, indent=1)).modifiers, "GPTQModifier"),
        (load_recipe(json.dumps(MAPPING, indent=1)).modifiers[0], "GPTQModifier"),
        ([GPTQModifier(**FIELDS)], "GPTQModifier"),
        (GPTQModifier(**FIELDS), "GPTQModifier"),
    ],
)
def test_a_recipe_is_the_same_in_every_form(graph: ModelGraph, planned: Plan, recipe: Any, name: str) -> None:
    found = plan(graph, recipe, JOB)
    assert figures(found) == figures(planned)
    assert found.recipe == name


def test_two_modifiers_of_one_kind_run_one_after_the_other(graph: ModelGraph) -> None:
    found = plan(graph, [GPTQModifier(**FIELDS), GPTQModifier(**FIELDS)], JOB)
    assert found.recipe == "GPTQModifier+GPTQModifier"
    assert [step.subgraph for step in found.steps if step.phase == "compress"] == [1, 2, 3, 1, 2, 3]


def test_a_graph_is_planned_for_the_job_that_it_was_loaded_for(graph: ModelGraph, planned: Plan) -> None:
    assert plan(graph, MAPPING) == planned


def test_a_graph_takes_another_number_of_samples_or_another_card(graph: ModelGraph) -> None:
    job = JOB.model_copy(update={"samples": 8, "gpu_memory_bytes": 2**34})
    assert plan(graph, MAPPING, job).steps == plan(CONFIG, MAPPING, job).steps


def test_a_graph_has_no_result_and_a_note_says_so(planned: Plan) -> None:
    assert planned.result is None
    assert [note.kind for note in planned.notes] == ["result"]


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 32},
        {"batch_size": 2},
        {"images": 1},
        {"image_size": (224, 224)},
        {"sequential_targets": ("LlamaMLP",)},
        {"calibrate_all_experts": False},
        {"linearized": True},
        {"dtype": "float32"},
        {"layers": 1},
        {"vision_layers": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_graph_is_refused_for_a_job_that_it_was_not_loaded_for(graph: ModelGraph, change: dict[str, Any]) -> None:
    (field,) = change
    with pytest.raises(JobError, match=f"loaded for a job with {field} "):
        plan(graph, MAPPING, JOB.model_copy(update=change))


def test_comparing_takes_every_form_as_well(graph: ModelGraph) -> None:
    found = compare(graph, ["rtn_fp8_dynamic", MAPPING, load_recipe("gptq_w4a16")], JOB)
    assert [each.recipe for each in found] == ["rtn_fp8_dynamic", "recipe mapping", "gptq_w4a16"]


@pytest.mark.parametrize(
    ("model", "recipe", "job", "error", "text"),
    [
        (8, MAPPING, JOB, ModelError, "not an int"),
        (None, MAPPING, JOB, ModelError, "not a NoneType"),
        ({}, MAPPING, JOB, ModelError, "has no model_type"),
        ({"model_type": "lama"}, MAPPING, JOB, ModelError, "knows no model_type 'lama'"),
        (CONFIG, 8, JOB, RecipeError, "not an int"),
        (CONFIG, [], JOB, RecipeError, "not a list"),
        (CONFIG, ["gptq_w4a16"], JOB, RecipeError, "not a list that holds a str"),
        (CONFIG, {}, JOB, RecipeError, "recipe mapping: holds no modifier"),
        (CONFIG, JOB, JOB, RecipeError, "no such modifier"),
        (CONFIG, MAPPING, {"samples": 4}, JobError, "a job is a planner.Job, not a dict"),
    ],
)
def test_what_is_no_model_recipe_or_job_is_named(
    model: Any, recipe: Any, job: Any, error: type[PlannerError], text: str
) -> None:
    with pytest.raises(error, match=text):
        plan(model, recipe, job)


@pytest.mark.parametrize("recipes", ["gptq_w4a16", MAPPING, load_recipe("gptq_w4a16"), [], None])
def test_comparing_one_recipe_or_none_is_refused_instead_of_taken_apart(recipes: Any) -> None:
    with pytest.raises(RecipeError, match="compare takes"):
        compare(CONFIG, recipes, JOB)


class LibrarysRecipe(BaseModel):
    """As LLM Compressor's recipe/recipe.py `Recipe`: what `Recipe.create_instance` makes of modifiers."""

    modifiers: list[Any]


def test_a_list_in_the_list_and_the_librarys_own_recipe_are_taken_as_oneshot_takes_them(graph: ModelGraph) -> None:
    modifier = GPTQModifier(**FIELDS)
    expected = plan(graph, [modifier])
    assert plan(graph, [[modifier]]) == expected
    assert plan(graph, LibrarysRecipe(modifiers=[modifier])) == expected
