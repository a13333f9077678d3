"""Real models: repeated layers are copied, and the plan is the one that simulating each would give."""

import pytest

from planner.compress.context import Shortcuts
from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan
from planner.job import Job
from planner.planning import plan_graph
from planner.recipe.files import list_recipes
from tests.built import graph_of
from tests.property.test_laws import figures
from tests.toys import UNFOLDED

RECIPES = [recipe.name for recipe in list_recipes()]


def both(model: str, recipe: str, job: Job) -> tuple[Plan, Plan]:
    folded, whole = (
        plan_graph(graph_of(model, job), load_recipe(recipe), job, shortcuts=each) for each in (Shortcuts(), UNFOLDED)
    )
    return folded, whole


def needs_data(recipe: str) -> bool:
    return all(spec.requires_calibration_data for spec in load_recipe(recipe).modifiers)


@pytest.mark.parametrize("recipe", RECIPES)
def test_six_equal_layers_cost_what_each_costs(recipe: str) -> None:
    model = "mixtral-8x7b" if recipe.startswith("reap") else "llama-3-8b"
    folded, whole = both(model, recipe, Job(layers=6))
    assert figures(folded) == figures(whole)
    if needs_data(recipe):
        assert folded == whole


@pytest.mark.parametrize(
    "options", [{"targets_per_subgraph": 2}, {"offload_device": "gpu"}, {"prefetch": True, "batch_size": 2}], ids=str
)
def test_folding_holds_under_other_options(options: dict[str, object]) -> None:
    folded, whole = both("llama-3-8b", "gptq_w4a16", Job.model_validate({"layers": 6, "seq_len": 512, **options}))
    assert folded == whole


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("qwen2.5-vl-7b", {"layers": 5, "images": 1, "image_size": (224, 224)}),
        ("qwen2.5-vl-7b", {"layers": 5}),
        ("gemma-3-27b", {"layers": 13}),  # every sixth layer sees everything, the others a window
        ("qwen3-30b-a3b", {"layers": 4}),
        ("deepseek-r1", {"layers": 6, "seq_len": 128}),  # three dense layers before the experts
    ],
    ids=["vision", "vision-text-only", "gemma", "moe", "dense-then-moe"],
)
def test_models_of_unequal_layers_fold_too(model: str, options: dict[str, object]) -> None:
    folded, whole = both(model, "gptq_w4a16", Job.model_validate({"samples": 8, **options}))
    assert folded == whole
