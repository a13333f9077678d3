"""Rehearsed and planned agree for every shipped recipe and every shipped preset. Opt-in, with the real library.

CUDAMETER=FOLDER pytest tests/drift -m llmcompressor -n0
"""

import pytest

from planner.drift.cases import CASES, DriftCase
from planner.drift.run import drift
from planner.models.source import list_presets
from planner.recipe.files import list_recipes
from planner.upstream import LLMCOMPRESSOR_VERSION
from tests.rehearse.cuda_build import FOLDER, MARKS

pytestmark = MARKS
LEAST = {"deepseek-r1": 4}
"""Layers of a preset where two do not have all kinds."""


def missing_recipes() -> list[DriftCase]:
    """Of the recipes that no named job has, each on a small model."""
    have = {case.recipe for case in CASES}
    return [
        DriftCase(name=recipe.name, model="qwen3-0.6b", recipe=recipe.name)
        for recipe in list_recipes()
        if recipe.name not in have
    ]


def missing_presets() -> list[DriftCase]:
    """Of the presets that no named job has, each with weights and activations quantized."""
    have = {case.model for case in CASES}
    return [
        DriftCase(
            name=preset.name,
            model=preset.name,
            recipe="rtn_w8a8_static",
            fields={"layers": LEAST[preset.name]} if preset.name in LEAST else {},
        )
        for preset in list_presets()
        if preset.name not in have
    ]


@pytest.mark.parametrize("case", (*CASES, *missing_recipes(), *missing_presets()), ids=lambda case: case.name)
def test_the_plan_holds_for_the_release_that_it_is_for(case: DriftCase) -> None:
    found = drift([case], FOLDER, LLMCOMPRESSOR_VERSION, lambda _text: None)
    (job,) = found.jobs
    assert job.steps
    assert not job.is_off, job
