"""What `fit` advises is accepted as a command and does what it says; `python -m tests.choose.advice` follows all."""

from itertools import product

import pytest

from planner.choose.estimator import Estimator
from planner.choose.strategies import ASKED
from planner.hardware.machine import Machine
from planner.job import Job
from tests.choose.advice import MACHINES, agree, broken_advice, built_once, machine, planned, rounds

JOB = Job(samples=32, seq_len=512, layers=2)
SAMPLE = (
    ("qwen3-0.6b", "gptq_w4a16", "a card too small"),
    ("qwen3-0.6b", "rtn_fp8_dynamic", "both too small"),
    ("qwen3-0.6b", "sparsegpt_2of4", "too little RAM"),
    ("qwen3-0.6b", "rtn_w8a8_static", "four cards too small"),
    ("qwen3-0.6b", "gptq_w8a8", "room for all"),
)
"""Of each kind one, with a recipe of each family: `python -m tests.choose.advice` has all of both."""


@pytest.mark.parametrize(("model", "recipe", "on"), SAMPLE)
def test_advice_does_what_it_says(model: str, recipe: str, on: str) -> None:
    with built_once():
        assert list(broken_advice(Estimator(model, recipe), JOB, on)) == []


def test_the_sample_has_every_kind_of_machine() -> None:
    assert {on for _, _, on in SAMPLE} == set(MACHINES)


def test_a_command_that_plans_something_else_is_found_out() -> None:
    with built_once():
        trials = Estimator("qwen3-0.6b", "gptq_w4a16")
        on = machine("a card too small", trials.choice(JOB, ASKED, Machine(source="a test")))
        asked = trials.choice(JOB, ASKED, on)
        status, other = planned(asked.command.replace("--samples 32", "--samples 64"))
        assert status == 0
        assert not all(
            agree(said, type(said).model_validate(d)) for said, d in zip(asked.demands, other["demands"], strict=True)
        )


def test_a_fix_of_the_recipe_is_in_its_command() -> None:
    with built_once():
        trials = Estimator("qwen3-0.6b", "gptq_w4a16", changes={"GPTQModifier.batched_quantization": 1})
        choice = trials.choice(JOB, ASKED, Machine(source="a test"))
        assert "--set GPTQModifier.batched_quantization=1" in choice.command
        assert "# in the recipe, for GPTQModifier: batched_quantization: 1" in choice.python
        status, plan = planned(choice.command)
        assert status == 0
        assert any("batched_quantization is 1 here" in note["text"] for note in plan["notes"])


def test_the_sweep_meets_every_model_and_every_recipe_in_its_first_round() -> None:
    for models, recipes in ((["a", "b"], ["1", "2", "3"]), (["a", "b", "c"], ["1", "2"]), (["a"], ["1"])):
        pairs = list(rounds(models, recipes))
        first = pairs[: max(len(models), len(recipes))]
        assert sorted(set(pairs)) == sorted(pairs) == sorted(product(models, recipes))
        assert {model for model, _ in first} == set(models)
        assert {recipe for _, recipe in first} == set(recipes)
