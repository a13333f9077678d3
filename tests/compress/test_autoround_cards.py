"""AutoRound told which GPUs to take: how they are read, and a toy layer spread over several."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.context import EVERYTHING, Shortcuts
from planner.compress.modifiers.autoround_schemes import gpus_of
from planner.compress.schema import Plan
from planner.errors import PlannerError, RecipeError, UnsupportedError
from planner.hardware.machine import Machine
from planner.job import Job
from planner.models.traces import Event
from planner.models.tuned import TunedBlock, TuningRequest
from planner.planning import plan, plan_graph
from planner.units import GIB
from tests.compress.test_autoround import GRADIENT, VALUE, WEIGHT, alloc, block, graph, planned, recipe, step
from tests.compress.walked import with_events

READ: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("0", (0,)),
    ("cuda", (0,)),
    ("cuda:0", (0,)),
    ("0,1", (0, 1)),
    ("0, 3", (0, 3)),
    ("0,0,3,1", (0, 3, 1)),
    ("cuda,1", (0, 1)),
    ("0,cuda", (0,)),
    ("cuda:0, cuda:1", (0, 1)),
    ("cuda:0,,cuda:2", (0, 2)),
    ("cuda:0, 1", (0,)),
    ("cuda:0,cuda", (0,)),
    ("cuda:0,1,cuda:2", (0, 2)),
    ("0:0,1:1", (0, 1)),
)
"""What auto_round 0.15.1 answers (parse_available_devices of the text without spaces, where there is CUDA)."""


@pytest.mark.parametrize(("device_ids", "gpus"), READ)
def test_gpus_are_read_as_auto_round_reads_them(device_ids: str, gpus: tuple[int, ...]) -> None:
    assert gpus_of(device_ids, "") == gpus


@pytest.mark.parametrize("device_ids", [None, "auto"])
def test_without_a_number_it_is_the_first_gpu(device_ids: str | None) -> None:
    assert gpus_of(device_ids, "") == (0,)


@pytest.mark.parametrize(
    ("device_ids", "error", "says"),
    [
        ("0,cuda:1", UnsupportedError, "reads 0,cuda:1 as GPU 1,"),
        ("0,cuda:1,cuda:2", UnsupportedError, "as GPU 1 and GPU 2,"),
        (",1", UnsupportedError, "as GPU 1,"),
        ("cuda:0,cuda:0", UnsupportedError, "as GPU 0 and GPU 0,"),
        ("00,0", UnsupportedError, "as GPU 0 and GPU 0,"),
        ("cuda:1,0", RecipeError, "samples on GPU 1, which is named first"),
        ("a:1,b:2", RecipeError, "samples on GPU 1"),
        ("cuda:3", RecipeError, "samples on GPU 3"),
        ("0 1", RecipeError, "samples on GPU 1"),
        ("", RecipeError, "numbers of GPUs"),
        ("cpu", RecipeError, "numbers of GPUs"),
        ("AUTO", RecipeError, "numbers of GPUs"),
    ],
)
def test_what_auto_round_reads_otherwise_than_it_is_meant_is_refused(
    device_ids: str, error: type[PlannerError], says: str
) -> None:
    with pytest.raises(error, match=says):
        gpus_of(device_ids, "r.yaml: device_ids")


@pytest.mark.parametrize(("gpus", "device_ids"), [(1, "0"), (2, "0,1"), (4, "0,1,2,3")])
def test_auto_is_every_gpu_of_the_machine_by_its_number(gpus: int, device_ids: str) -> None:
    on = Machine(gpus=gpus, gpu_memory_bytes=80 * GIB, source="a test")
    auto, named = (plan(graph(), recipe(device_ids=ids), Job(samples=2), machine=on) for ids in ("auto", device_ids))
    assert auto.gpu.peak_bytes
    assert auto == named


def test_auto_where_nobody_said_how_many_gpus_there_are_is_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedError, match="auto takes all GPUs, and there are 2 or more: say how many, --gpus N"):
        planned(Job(samples=2, offload_device="gpu:1"), device_ids="auto")


def test_one_card_by_its_number_takes_the_same_of_the_card() -> None:
    plain, by_number = planned(), planned(device_ids="0")
    for one, other in zip(by_number.steps, plain.steps, strict=True):
        assert (one.gpu.peak_bytes, one.gpu.end_bytes, one.gpu.by_kind) == (
            other.gpu.peak_bytes,
            other.gpu.end_bytes,
            other.gpu.by_kind,
        )


def on_their_way(job: Job, **fields: Any) -> list[tuple[int, int]]:
    """Bytes and number of the tensors that go to the CPU before a layer's training, in order; negative: that come
    back."""
    timeline = with_events(graph(), recipe(**fields), job).ledger.timeline("cpu")
    return [
        (nbytes, number)
        for handle, nbytes, number in timeline.events
        if "weights on their way" in str(timeline.about[handle].owner)
    ]


def test_a_layers_weights_go_over_the_cpu_where_a_card_is_named_and_nowhere_else() -> None:
    each = [(WEIGHT, 1), (WEIGHT, 1), (WEIGHT, -1), (WEIGHT, -1)]
    assert on_their_way(Job(samples=2), device_ids="0") == 3 * each, "both weights of three layers"
    assert on_their_way(Job(samples=2)) == []


def spread_block(rows: tuple[int, ...]) -> TunedBlock:
    """The rounding of one Linear lies on the third card, and so does a tensor of each iteration."""
    plain = block(rows)
    there = (replace(alloc(14, 5 * GRADIENT), card=2), Event("free", 14))
    return replace(
        plain,
        wrap=(replace(alloc(5, VALUE), card=2),),
        iteration=(*plain.iteration, *there),
        cards=(0, 2),
        placed=(0, 1),
    )


def spread(**fields: Any) -> Plan:
    found = graph()
    tuned = replace(found, tune=lambda request: spread_block(request.sizes))
    return plan_graph(tuned, recipe(device_ids="0,1,2", **fields), Job(samples=10))


def test_the_fullest_of_the_other_cards_is_the_plans_second_gpu() -> None:
    plan = spread()
    trained = step(plan, 2, "compress")
    assert trained.second_gpu is not None
    assert trained.second_gpu.by_kind == {"autoround": VALUE + 5 * GRADIENT, "weights": WEIGHT}
    assert any("over 3 GPUs" in note.text and "is number 2" in note.text for note in plan.notes)


def test_what_lies_on_another_card_is_not_on_the_first() -> None:
    alone, several = step(planned(), 2, "compress").gpu, step(spread(), 2, "compress").gpu
    assert several.peak_bytes < alone.peak_bytes
    assert alone.end_bytes - several.end_bytes == VALUE, "what the first layer leaves to Python's collector"


def test_folded_equals_unfolded_on_several_cards() -> None:
    found = replace(graph(), tune=lambda request: spread_block(request.sizes))
    plans = [
        plan_graph(found, recipe(device_ids="0,1,2", iters=40), Job(samples=30), shortcuts=shortcuts)
        for shortcuts in (Shortcuts(), EVERYTHING)
    ]
    for one, other in zip(plans[0].steps, plans[1].steps, strict=True):
        assert (one.gpu.peak_bytes, one.second_gpu and one.second_gpu.peak_bytes, one.cpu.peak_bytes) == (
            other.gpu.peak_bytes,
            other.second_gpu and other.second_gpu.peak_bytes,
            other.cpu.peak_bytes,
        )


@pytest.mark.parametrize(("gpus", "outcome"), [(2, "over"), (3, "over"), (4, "fits")])
def test_a_gpu_is_there_only_where_the_machine_has_one_of_its_number(gpus: int, outcome: str) -> None:
    """Of `0,3`, the third number is the fourth GPU, however few are named."""

    def tune(request: TuningRequest) -> TunedBlock:
        assert request.spread is not None
        assert request.spread.gpus == (0, 3)
        return replace(block(request.sizes), cards=(0, 3), placed=(0, 1))

    on = Machine(gpus=gpus, gpu_memory_bytes=80 * GIB, source="a test")
    found = plan(replace(graph(), tune=tune), recipe(device_ids="0,3"), Job(samples=2), machine=on)
    assert next(demand.outcome for demand in found.demands if demand.resource == "second GPU") == outcome
    assert any("over 2 GPUs" in note.text and "GiB on GPU 3" in note.text for note in found.notes)


def test_activations_that_wait_on_one_of_many_cards_are_not_modelled() -> None:
    found = replace(graph(), tune=lambda request: replace(spread_block(request.sizes), cards=(1, 2)))
    with pytest.raises(UnsupportedError, match="more than two GPUs"):
        plan_graph(found, recipe(device_ids="0,1,2"), Job(samples=2, offload_device="gpu:1"))
