"""strategies: every way to run a job, planned and ranked."""

import ast
from typing import Any

import pytest

from planner.choose.estimator import Estimator
from planner.choose.paste import NARROW, command_line
from planner.choose.schema import Choice
from planner.choose.strategies import ASKED, Strategy
from planner.choose.targets import finer_targets
from planner.compress.schema import Plan
from planner.errors import JobError
from planner.hardware import find_gpu
from planner.hardware.demand import Resource, rank
from planner.hardware.machine import Machine
from planner.job import Job
from planner.units import GIB
from tests.choose.small import CONFIG, JOB, LARGE, MIXTURE, estimator, machine, search


@pytest.fixture(scope="module")
def choices() -> dict[str, Choice]:
    return {choice.strategy: choice for choice in search(machine(gpus=2)).strategies().choices}


def test_there_is_one_for_each_knob(choices: dict[str, Choice]) -> None:
    assert set(choices) == {
        "as asked",
        "weights on the GPU",
        "all weights on the disk",
        "parts of a layer",
        "single Linears",
        "two targets a subgraph",
        "activations on the GPU",
        "activations on a second GPU",
        "2 ranks under torchrun",
        "all of the job on the GPU",
        "batch of 4",
        "next batch prefetched",
        "errors not propagated",
        "GPTQ one module at a time",
    }


def test_those_that_fit_come_first_and_among_them_the_ones_that_move_least() -> None:
    found = search(machine(1200 * 2**20, 6 * GIB)).strategies().choices
    places = [(choice.fits == "no", not choice.is_same_result, rank(choice.fits)) for choice in found]
    assert places == sorted(places)
    for answer in ("yes", "slow", "no"):
        same = [choice.moved_bytes for choice in found if choice.fits == answer and choice.is_same_result]
        assert same == sorted(same)


def test_activations_on_the_gpu_leave_ram_and_move_nothing(choices: dict[str, Choice]) -> None:
    asked, on_gpu = choices["as asked"], choices["activations on the GPU"]
    assert on_gpu.moved_bytes < asked.moved_bytes
    assert needs(on_gpu, "RAM") < needs(asked, "RAM")
    assert needs(on_gpu, "GPU") > needs(asked, "GPU")


def test_a_second_gpu_takes_the_activations_and_nothing_else(choices: dict[str, Choice]) -> None:
    asked, second = choices["as asked"], choices["activations on a second GPU"]
    assert needs(second, "GPU") == needs(asked, "GPU")
    assert needs(second, "RAM") < needs(asked, "RAM")
    assert needs(second, "second GPU") > 0


def test_a_strategy_that_is_no_job_is_left_out_in_one_line() -> None:
    impossible = Strategy(name="1 samples", changes={"samples": 1})
    with pytest.raises(JobError, match=r"^ranks 2 are more than samples 1; each needs one$"):
        estimator().trial(JOB.model_copy(update={"ranks": 2}), impossible)


def test_one_card_is_no_second_one() -> None:
    on = machine(gpus=1)
    changed = Strategy(name="second", changes={"offload_device": "gpu:1"})
    second = estimator().choice(JOB, changed, on).demand("second GPU")
    assert second is not None
    assert (second.outcome, second.has_bytes) == ("over", 0)


def test_finer_targets_hold_fewer_weights_on_the_gpu(choices: dict[str, Choice]) -> None:
    """A law of the issue: a finer target never needs more weights on the GPU."""
    trials = estimator()
    graph = trials.graph(JOB)
    before = weights(trials.trial(JOB).plan)
    for targets in finer_targets(graph).values():
        finer = Strategy(name="finer", changes={"sequential_targets": targets})
        after = weights(trials.trial(JOB, finer).plan)
        assert after <= before
        before = after


def weights(plan: Plan) -> int:
    steps = [step for step in plan.steps if step.unit not in ("head", "setup", "activation cache")]
    return max(step.gpu.by_kind.get("weights", 0) for step in steps)


def needs(choice: Choice, resource: Resource) -> int:
    demand = choice.demand(resource)
    assert demand is not None
    return demand.at_least_bytes


def test_a_model_is_built_once_and_traced_once_for_each_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.models import load

    builds: list[object] = []
    traces: list[object] = []
    build, trace = load.load_built, load.graph_of
    monkeypatch.setattr(load, "load_built", lambda *a: builds.append(a) or build(*a))
    monkeypatch.setattr(load, "graph_of", lambda *a: traces.append(a) or trace(*a))
    trials = Estimator(CONFIG, "gptq_w4a16")
    for samples in (8, 16, 32):
        for targets in (None, ("LlamaAttention", "LlamaMLP")):
            trials.trial(Job(samples=samples, seq_len=256, sequential_targets=targets))
    assert (len(builds), len(traces)) == (1, 2)


# ---------------------------------------------------------------------- to paste
def test_what_is_pasted_is_python_and_names_the_changed_arguments(choices: dict[str, Choice]) -> None:
    expected = {
        "activations on the GPU": "sequential_offload_device='cuda:0'",
        "activations on a second GPU": "sequential_offload_device='cuda:1'",
        "parts of a layer": "sequential_targets=['LlamaAttention', 'LlamaMLP']",
        "two targets a subgraph": "sequential_targets_per_subgraph=2",
        "next batch prefetched": "sequential_prefetch=True",
        "errors not propagated": "propagate_error=False",
        "all weights on the disk": '        device_map="auto_offload",\n        max_memory={"cpu": 0},\n',
        "weights on the GPU": 'device_map="cuda:0"',
        "GPTQ one module at a time": "batched_quantization: 1",
    }
    for name, words in expected.items():
        ast.parse(choices[name].python)
        assert words in choices[name].python
        assert all(len(line) < NARROW for line in choices[name].python.splitlines() if not line.startswith("#"))


def test_a_shipped_recipe_is_pasted_as_the_file_that_it_is(choices: dict[str, Choice]) -> None:
    assert "recipe='gptq_w4a16.yaml'" in choices["as asked"].python


def test_ranks_are_pasted_with_the_card_of_each() -> None:
    ranks = Strategy(name="ranks", changes={"ranks": 2, "offload_device": "gpu"})
    python = estimator().choice(JOB, ranks, machine(gpus=2)).python
    ast.parse(python)
    assert "init_dist()" in python
    assert "sequential_offload_device='cuda'" in python


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ({"gpu": "L40S", "gpu_memory_bytes": find_gpu("l40s").memory_bytes}, "--gpu L40S"),
        ({"gpu": "L40S", "gpu_memory_bytes": 30 * GIB}, "--gpu-memory 30GiB"),
        ({"gpu": "Foo9000", "gpu_memory_bytes": 30 * GIB, "sm": 80}, "--gpu-memory 30GiB --sm 80"),
        ({"gpu_memory_bytes": 80 * GIB}, "--gpu-memory 80GiB"),
    ],
)
def test_a_pasted_command_says_the_card_so_that_planner_takes_it(on: dict[str, Any], words: str) -> None:
    card = Machine(source="a test", ram_bytes=64 * GIB, ram_available_bytes=48 * GIB, **on)
    command = command_line("plan", "m", "r", JOB.on(card), card)
    assert words in command
    assert command.endswith("--ram 48GiB")


def test_linear_experts_on_the_disk_are_loaded_by_load_context() -> None:
    disk = Strategy(name="disk", changes={"linearized": True, "weights": "disk"})
    python = estimator(config=MIXTURE).choice(JOB, disk, LARGE).python
    ast.parse(python)
    assert "with load_context():" in python


def test_the_job_as_asked_changes_nothing() -> None:
    assert ASKED.job(JOB) == JOB
    assert CONFIG["model_type"] == "llama"
