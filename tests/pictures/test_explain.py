"""What is listed at a peak is all that is there, also in steps that are copies."""

from typing import get_args

import pytest

from planner.compress.schema import Plan
from planner.models.graph import ModelGraph
from planner.pictures import condense
from planner.pictures.explain import explained
from planner.pictures.make import picture_of
from planner.pictures.schema import DeviceKey, Picture, Shifted, StepPicture
from planner.planning import plan_graph
from planner.recipe.specs import Recipe
from tests import toys
from tests.toys import Layer, Linear, Toy

LAYER = Layer(linears=(Linear(name=".q_proj", rows=300, columns=200), Linear(name=".up_proj", rows=500, columns=300)))
IMATRIX = toys.recipe(toys.gptq(toys.weights(observer="imatrix_mse")))
"""Its sums lie on the GPU for all layers, and go layer by layer."""


@pytest.fixture(scope="module")
def job() -> tuple[ModelGraph, Recipe, Plan]:
    toy = Toy(kinds=(LAYER,), order=(0, 0, 0, 0, 0), tokens=40)
    return toy.graph, IMATRIX, plan_graph(toy.graph, IMATRIX, toys.job(samples=6), on_card=True)


def drawn(job: tuple[ModelGraph, Recipe, Plan], held: int, monkeypatch: pytest.MonkeyPatch) -> Picture:
    monkeypatch.setattr(condense, "HELD", held)
    found = picture_of(*job)
    assert found is not None
    assert any(step.devices["gpu"].shifts for step in found.steps), "no step differs from the one that it copies"
    return found


def test_two_modifiers_allocate_what_is_called_alike_each_in_its_own_function() -> None:
    toy, recipe = Toy(kinds=(LAYER,), order=(0, 0)), toys.recipe(toys.sparsegpt(), toys.gptq())
    plan = plan_graph(toy.graph, recipe, toys.job(samples=2), on_card=True)
    picture = picture_of(toy.graph, recipe, plan)
    assert picture is not None
    found = {
        (step.modifier, row.line)
        for step in plan.steps
        for row in explained(plan, picture, step.index, "gpu").rows
        if row.role == "Hessian"
    }
    assert found == {
        ("SparseGPTModifier", "sparsegpt/sgpt_sparsify.py make_empty_hessian"),
        ("GPTQModifier", "gptq/helpers.py make_empty_hessian"),
    }


def check_sums(plan: Plan, picture: Picture) -> None:
    for step in plan.steps:
        for device in get_args(DeviceKey):
            if device in picture.devices:
                found = explained(plan, picture, step.index, device)
                assert sum(row.bytes for row in found.rows) + sum(found.rest.values()) == found.bytes
                assert all(nbytes > 0 for nbytes in (*found.rest.values(), *(row.bytes for row in found.rows)))


@pytest.mark.parametrize("held", [1, 3, 160])
def test_rows_and_rest_sum_to_the_peak_however_few_are_listed(
    job: tuple[ModelGraph, Recipe, Plan], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sums(job[2], drawn(job, held, monkeypatch))


def test_of_two_rows_that_are_called_alike_one_has_what_is_larger(
    job: tuple[ModelGraph, Recipe, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, plan = drawn(job, 160, monkeypatch), job[2]
    alike = picture.model_copy(
        update={"whats": tuple(what.model_copy(update={"name": "", "role": ""}) for what in picture.whats)}
    )
    check_sums(plan, alike)


def test_two_holdings_of_one_name_may_both_be_larger(
    job: tuple[ModelGraph, Recipe, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(step: StepPicture) -> StepPicture:
        place = step.devices["gpu"]
        shifts = tuple(
            Shifted(what=shift.what, bytes=nbytes)
            for shift in place.shifts
            for nbytes in (shift.bytes - shift.bytes // 3, shift.bytes // 3)
        )
        return step.model_copy(update={"devices": {**step.devices, "gpu": place.model_copy(update={"shifts": shifts})}})

    picture = drawn(job, 160, monkeypatch)
    check_sums(job[2], picture.model_copy(update={"steps": tuple(map(halved, picture.steps))}))
