"""Layers that AutoRound spreads over several cards: every command says of a card what its plan says."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.accepted import recipe_of
from planner.choose.compare import Comparison
from planner.choose.estimator import Estimator
from planner.choose.fit import Search
from planner.choose.strategies import ASKED, strategies
from planner.cli import main
from planner.compress.recipes import load_recipe
from planner.job import Job
from planner.pictures.make import Drawer
from planner.planning import plan
from planner.units import GIB
from tests.choose.small import CONFIG, machine

JOB = Job(samples=8, seq_len=512)


def spread(**fields: Any) -> Any:
    entry = {"device_ids": "0,1", "scheme": "W4A16", "targets": ["Linear"], "ignore": ["lm_head"], "iters": 3}
    return recipe_of({"quant_stage": {"quant_modifiers": {"AutoRoundModifier": {**entry, **fields}}}})


def test_fit_has_each_cards_own_deal_as_its_plan_has() -> None:
    estimator, found = Estimator(CONFIG, spread()), set()
    for size in (80 * GIB, 2 * GIB):
        on = machine(size, gpus=2)
        answer, planned = estimator.choice(JOB.on(on), ASKED, on), plan(CONFIG, spread(), JOB, machine=on)
        assert answer.fits == planned.fits
        said = {demand.resource: demand.at_least_bytes for demand in planned.demands}
        asks = {demand.resource: demand.at_least_bytes for demand in answer.demands}
        assert {name: asks[name] for name in ("GPU", "second GPU")} == {
            name: said[name] for name in ("GPU", "second GPU")
        }
        found.add((asks["GPU"], asks["second GPU"]))
    assert len(found) == 2, "AutoRound deals otherwise on the small card"


@pytest.mark.parametrize("gpus", [1, 2])
def test_who_says_auto_is_told_the_same_as_who_names_all_gpus_of_the_machine(gpus: int) -> None:
    on, estimator = machine(80 * GIB, gpus=gpus), Estimator(CONFIG, spread(device_ids="auto"))
    named = Estimator(CONFIG, spread(device_ids="0,1" if gpus == 2 else "0")).choice(JOB.on(on), ASKED, on)
    asked = estimator.choice(JOB.on(on), ASKED, on)
    assert asked.demands == named.demands
    assert Search(estimator, JOB, on).fit().answer.demands == asked.demands


def test_where_layers_are_trained_other_targets_make_another_model() -> None:
    graph, found = Estimator(CONFIG, spread()).graph(JOB), {}
    for recipe in (spread(), recipe_of("gptq_w4a16")):
        found[recipe.name] = {each.name: each.is_same_result for each in strategies(graph, recipe, JOB)}
    trained, fitted = found.values()
    assert (trained["parts of a layer"], fitted["parts of a layer"]) == (False, True)
    assert (trained["activations on the GPU"], fitted["activations on the GPU"]) == (True, True)


def test_what_is_pasted_for_auto_sets_no_fields_of_the_recipe() -> None:
    drawer = Drawer()
    plans = Comparison(CONFIG, lambda _text: None, drawer.draw).plans(
        [spread(device_ids="auto")], JOB, [machine(80 * GIB, gpus=2)], ()
    )
    (found,) = drawer.with_pictures(plans)
    assert found.changes == {}


def test_auto_is_compared_on_machines_with_different_numbers_of_gpus() -> None:
    machines = [machine(80 * GIB, gpus=gpus) for gpus in (1, 2)]
    one, two = Comparison(CONFIG, lambda _text: None).plans([spread(device_ids="auto")], JOB, machines, ())
    assert [demand.resource for demand in one.demands if demand.gpus] == ["GPU"]
    assert [demand.gpus for demand in two.demands if demand.gpus] == [1, 2]


# ---------------------------------------------------------------------- what is refused, in one line
RECIPES, CONFIGS = (Path(__file__).parents[1] / "measured" / name for name in ("recipes", "configs"))
RECIPE = str(RECIPES / "autoround_gpus2.yaml")
SMALL = ("qwen3-0.6b", "-r", RECIPE, "--layers", "2", "--samples", "8", "--seq-len", "64")


def test_what_is_not_followed_on_several_cards_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SMALL, "--sequential-targets", "Linear"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "the layer is a Linear itself" in told[0]


def test_weights_on_the_gpu_leave_for_their_cards_as_weights_on_the_cpu_do(capsys: pytest.CaptureFixture[str]) -> None:
    taken = {}
    for weights in ("cpu", "gpu"):
        assert main(["plan", *SMALL, "--weights", weights, "--gpus", "2", "--format", "json"]) == 0
        steps = json.loads(capsys.readouterr().out)["steps"]
        trained = [step["second_gpu"] for step in steps if step["phase"] == "compress" and step["unit"] != "head"]
        taken[weights] = [(each["peak_bytes"], each["by_kind"]["weights"]) for each in trained]
    assert taken["gpu"] == taken["cpu"]
    assert all(weights > 0 for _, weights in taken["gpu"])
    assert main(["plan", *SMALL, "--weights", "gpu"]) == 0
    assert "Of 15 such jobs" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("recipe", ["autoround_gpus2", "autoround_w4a16_3iters"])
def test_experts_that_become_linears_on_the_gpu_leave_it_as_those_that_are_there_from_the_start(recipe: str) -> None:
    model, which, on = (
        str(CONFIGS / "qwen3-moe-16.json"),
        load_recipe(RECIPES / f"{recipe}.yaml"),
        machine(80 * GIB, gpus=2),
    )
    jobs = (Job(samples=8, seq_len=64, layers=2, weights="gpu", linearized=made) for made in (False, True))
    fused, linear = (plan(model, which, job, machine=on) for job in jobs)
    trained = [
        [
            (step.gpu.peak_bytes, step.gpu.by_kind, step.second_gpu and step.second_gpu.peak_bytes, step.cpu.peak_bytes)
            for step in each.steps
            if step.phase == "compress" and "layers" in step.unit
        ]
        for each in (fused, linear)
    ]
    assert trained[0] == trained[1]
    assert len(trained[0]) == 2


def test_who_has_too_few_gpus_is_told_how_many_the_recipe_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SMALL, "--gpu", "rtx4090", "--gpus", "1"]) in (0, 3)
    told = " ".join(capsys.readouterr().out.split())
    assert "the recipe spreads layers over GPUs that are not there; with 2 of them:" in told
    assert f"planner fit qwen3-0.6b -r {RECIPE}" in told
    assert "--gpus 2" in told
    assert main(["fit", *SMALL, "--gpu", "rtx4090", "--gpus", "1"]) in (0, 3)
    assert "The recipe spreads layers over 2 GPUs; for a machine that has them: --gpus 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [("--gpus", "2"), ("--gpus", "1", "--ram", "512MiB"), ("--gpus", "1", "--gpu-memory", "600MiB")]
)
def test_where_more_gpus_would_not_do_none_are_advised(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert main(["plan", *SMALL, *options]) in (0, 3)
    assert "GPUs that are not there" not in capsys.readouterr().out


@pytest.mark.parametrize(("command", "gpus"), [("strategies", "2"), ("fit", "1")])
def test_a_choice_goes_on_without_the_ways_that_are_not_followed(
    capsys: pytest.CaptureFixture[str], command: str, gpus: str
) -> None:
    assert main([command, *SMALL, "--gpus", gpus, "--gpu-memory", "8GiB"]) in (0, 3)
    told = " ".join(capsys.readouterr().out.split())
    assert "Not planned: single Linears:" in told
    assert "Not planned: weights on the GPU:" not in told
