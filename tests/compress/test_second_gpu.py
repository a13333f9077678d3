"""A second card for the activations that wait: what lies there, what it must hold, and who is told."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress import batches
from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.fit import Rehearsal
from planner.compress.oneshot import simulate
from planner.compress.plans import plan_on_card
from planner.compress.program import StepMemory
from planner.compress.schema import Plan
from planner.pictures.words import words
from planner.planning import plan_graph
from planner.reports import table
from planner.reports.summary import gpu_lines
from planner.units import MIB
from tests import toys
from tests.toys import Toy

TOY = Toy()
LARGE = Toy(hidden=40_000_000, mask=9_000_000)
SAMPLES = 6
CROSSING = TOY.hidden + TOY.mask + TOY.positions


def steps(**options: Any) -> dict[tuple[str, str], StepMemory]:
    job = toys.job(**({"samples": SAMPLES, "offload_device": "gpu:1"} | options))
    program, _ = make_program(TOY.graph, toys.recipe(toys.static_rtn()), job)
    return {(step.phase, step.unit): step for step in simulate(program, Context(job)).steps}


def rehearsal(toy: Toy = LARGE, **options: Any) -> Rehearsal:
    job = toys.job(**({"samples": SAMPLES, "offload_device": "gpu:1", "gpu_memory_bytes": 2_000 * MIB} | options))
    program, _ = make_program(toy.graph, toys.recipe(toys.static_rtn()), job)
    return Rehearsal(program, job, context_bytes=0)


def test_the_second_gpu_holds_every_batch_between_subgraphs() -> None:
    found = steps()
    prepared, first = found["prepare", "activation cache"].second_gpu, found["calibrate", "model.layers.0"].second_gpu
    assert prepared is not None
    assert first is not None
    assert prepared.by_kind == {"activation_cache": SAMPLES * TOY.ids}
    assert first.bytes == first.end == SAMPLES * CROSSING


def test_old_and_new_hidden_states_lie_there_together_for_one_batch() -> None:
    found = steps()["propagate", "model.layers.0"].second_gpu
    assert found is not None
    assert found.bytes == SAMPLES * CROSSING + TOY.hidden


def test_nothing_is_left_on_it() -> None:
    last = steps()["save", "save"].second_gpu
    assert last is not None
    assert (last.bytes, last.end) == (0, 0)


def test_a_job_without_one_has_no_such_steps() -> None:
    assert all(step.second_gpu is None for step in steps(offload_device="gpu").values())
    plan = plan_graph(TOY.graph, toys.recipe(toys.gptq()), toys.job())
    assert plan.second_gpu is None
    assert all(step.second_gpu is None for step in plan.steps)


def test_a_plan_has_its_peak_and_the_step_that_sets_it() -> None:
    plan = plan_graph(TOY.graph, toys.recipe(toys.gptq()), toys.job(offload_device="gpu:1", samples=SAMPLES))
    assert plan.second_gpu is not None
    heights = [step.second_gpu.peak_bytes for step in plan.steps if step.second_gpu]
    assert plan.second_gpu.peak_bytes == max(heights)
    assert plan.second_gpu.peak_step == heights.index(max(heights))


def test_the_smallest_second_card_gets_through_and_a_smaller_one_does_not() -> None:
    tried = rehearsal()
    smallest = tried.smallest_second()
    assert smallest is not None
    enough, less = tried.second_on(smallest), tried.second_on(smallest * 9 // 10)
    assert enough is not None
    assert less is not None
    assert enough.ran_out is None
    assert less.ran_out is not None
    assert rehearsal(offload_device="cpu").smallest_second() is None


def test_a_second_card_that_is_too_small_ends_the_job_there() -> None:
    """Six batches of 49 MB do not fit into 200 MiB, which is enough for the first card."""
    tried = rehearsal(gpu_memory_bytes=260 * MIB, samples=SAMPLES)
    assert tried.on(260 * MIB).ran_out is None
    plan = plan_on_card(LARGE.graph, toys.recipe(toys.static_rtn()), tried, ())
    assert plan.verdict is not None
    assert (plan.verdict.outcome, plan.verdict.gpu) == ("out of memory", 1)
    assert "OUT OF MEMORY on the second GPU" in table.render(plan)
    assert "wait on a second GPU" in table.render(plan)


def test_a_card_that_is_large_enough_gets_the_job_through() -> None:
    plan = plan_on_card(replace(LARGE).graph, toys.recipe(toys.static_rtn()), rehearsal(), ())
    assert plan.verdict is not None
    assert plan.verdict.outcome == "through"
    assert plan.second_gpu is not None
    assert plan.second_gpu.peak_reserved_bytes == plan.second_gpu.device_total_bytes


def test_many_batches_lie_there_as_if_each_had_been_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = rehearsal(samples=60).second_on(2_000 * MIB)
    monkeypatch.setattr(batches, "next_round", lambda *_: None)
    assert rehearsal(samples=60).second_on(2_000 * MIB) == quick


def test_a_second_card_that_gives_memory_back_is_told_apart_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = rehearsal()
    first, second = tried.on(tried.job.gpu_memory_bytes), tried.second_on(tried.job.gpu_memory_bytes)
    assert second is not None
    used = replace(second, helds=tuple(replace(held, retries=1) for held in second.helds[:2]))
    monkeypatch.setattr(tried, "second_on", lambda _: used)
    plan = plan_on_card(LARGE.graph, toys.recipe(toys.static_rtn()), tried, (), with_smallest=False)
    assert plan.verdict is not None
    assert (plan.verdict.outcome, plan.verdict.retries, plan.verdict.second_retries) == ("gives back", 2, 2)
    assert first.retries == 0


# ---------------------------------------------------------------------- what it is for
def used_for(plan: Plan, offload_device: str, kinds: tuple[str, ...]) -> Plan:
    """The plan with such memory on its second card."""
    changed = [
        step.model_copy(update={"second_gpu": step.gpu.model_copy(update={"by_kind": dict.fromkeys(kinds, MIB)})})
        for step in plan.steps
    ]
    job = plan.job.model_copy(update={"offload_device": offload_device})
    return plan.model_copy(update={"steps": tuple(changed), "job": job})


@pytest.mark.parametrize(
    ("offload_device", "kinds", "line", "box"),
    [
        ("gpu:1", ("activation_cache",), "of activations wait on a second GPU", "activations wait there"),
        ("cpu", ("autoround", "weights"), "on another GPU that layers are spread over", "layers are spread over it"),
        (
            "gpu:1",
            ("activation_cache", "autoround"),
            "at most on a second GPU, on which activations wait and over which layers are spread",
            "activations wait there, and layers are spread over it",
        ),
    ],
)
def test_a_report_says_what_the_second_card_is_for(
    offload_device: str, kinds: tuple[str, ...], line: str, box: str
) -> None:
    plan = plan_on_card(LARGE.graph, toys.recipe(toys.static_rtn()), rehearsal(), ())
    found = used_for(plan, offload_device, kinds)
    assert any(line in each for each in gpu_lines(found))
    assert words(found)["second_gpu"] == box


def test_of_what_a_rehearsed_script_has_on_it_no_more_is_said_than_is_known() -> None:
    plan = plan_on_card(LARGE.graph, toys.recipe(toys.static_rtn()), rehearsal(), ())
    found = used_for(plan, "cpu", ("other",)).model_copy(update={"method": "rehearsed"})
    assert any("at most on a second GPU" in each for each in gpu_lines(found))
    assert words(found)["second_gpu"] == ""


def test_a_plan_of_one_card_says_nothing_of_a_second() -> None:
    plan = plan_graph(TOY.graph, toys.recipe(toys.gptq()), toys.job(), on_card=True)
    assert words(plan)["second_gpu"] == ""
