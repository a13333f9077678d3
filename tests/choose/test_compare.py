"""compare with strategies and machines: each combination planned as `plan` plans it."""

import json
from typing import Any

import pytest

from planner.choose.compare import EVERY, Comparison
from planner.choose.strategies import ASKED
from planner.cli import main
from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan
from planner.errors import JobError
from planner.job import Job
from planner.planning import plan
from planner.reports import compare
from planner.units import GIB
from tests.choose.small import CONFIG, LARGE, estimator, machine

FEW = Job(samples=32, seq_len=512)
ON_GPU = "activations on the GPU"


def plans(*names: str, on: Any = (LARGE,), recipes: Any = ("gptq_w4a16",)) -> tuple[Plan, ...]:
    return Comparison(CONFIG, lambda _: None).plans([load_recipe(each) for each in recipes], FEW, on, names)


def test_every_recipe_is_planned_with_every_strategy_on_every_machine() -> None:
    small = machine(2 * GIB)
    found = plans("as asked", ON_GPU, on=(LARGE, small), recipes=("gptq_w4a16", "rtn_fp8_dynamic"))
    # FP8 of a model without data has no activations to keep on the GPU
    assert [(each.machine, each.recipe, each.strategy) for each in found] == [
        (on, recipe, strategy)
        for on in (LARGE, small)
        for recipe, strategies in (("gptq_w4a16", (None, ON_GPU)), ("rtn_fp8_dynamic", (None,)))
        for strategy in strategies
    ]


def test_a_combination_is_what_plan_says_of_it() -> None:
    (asked, changed) = plans("as asked", ON_GPU)
    whole = plan(CONFIG, "gptq_w4a16", FEW, machine=LARGE)
    assert asked == whole
    alone = plan(CONFIG, "gptq_w4a16", FEW.model_copy(update={"offload_device": "gpu"}), machine=LARGE)
    assert changed.demands == alone.demands
    assert changed.result == alone.result


def test_two_recipes_with_one_name_have_each_its_own_result() -> None:
    text = "quant_stage:\n  quant_modifiers:\n    QuantizationModifier: {{targets: [Linear], scheme: {}}}"
    texts = [text.format(scheme) for scheme in ("W4A16", "FP8")]
    together = plans(recipes=texts)
    assert len({each.recipe for each in together}) == 1
    assert [each.result for each in together] == [plans(recipes=[text])[0].result for text in texts]
    assert together[0].result != together[1].result


def test_all_strategies_are_those_of_the_table() -> None:
    names = [each.strategy or ASKED.name for each in plans(EVERY)]
    assert ON_GPU in names
    assert names[0] == ASKED.name


def test_an_unknown_strategy_is_refused_with_those_there_are() -> None:
    with pytest.raises(JobError, match="activations on the GPU"):
        plans("activations on GPU")


def test_a_row_says_its_strategy_and_its_machine_where_there_are_several() -> None:
    text = compare.render(plans("as asked", ON_GPU, on=(LARGE, machine(GIB // 2))), width=140)
    assert ON_GPU in text
    assert "on GPU of 80 GiB" in text
    assert "DOES NOT FIT: gptq_w4a16, as asked, on GPU of 0.500 GiB" in " ".join(text.split())


def test_the_command_takes_machines_and_cards_beside_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    job = "compare qwen3-0.6b -r gptq_w4a16 --layers 1 --samples 4 --ram 64GiB"
    words = f"{job} --gpu v100-32gb --beside l40s --beside p5.48xlarge --format json"
    assert main(words.split()) == 0
    found = json.loads(capsys.readouterr().out)["plans"]
    assert [each["machine"]["gpu"] for each in found] == ["V100 32GB", "L40S", "H100 SXM"]
    assert {each["machine"]["ram_bytes"] for each in found} == {64 * GIB}
    assert [each["card_support"]["support"] for each in found] == ["no", "yes", "yes"]


def test_a_rule_of_thumb_knows_no_strategies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "qwen3-0.6b", "-r", "gptq_w4a16", "--method", "rule-of-thumb", "--strategy", "all"]) == 2
    assert "--strategy" in capsys.readouterr().err


def test_the_estimator_and_the_comparison_agree() -> None:
    (changed,) = plans(ON_GPU)
    trial = estimator().trial(FEW.on(LARGE).model_copy(update={"offload_device": "gpu"}))
    assert trial.plan.host == changed.host
