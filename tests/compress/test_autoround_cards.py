"""AutoRound told which GPUs to take: how they are read, and a toy layer spread over several."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import EVERYTHING, Context, Shortcuts
from planner.compress.modifiers.autoround_schemes import cards_of
from planner.compress.oneshot import simulate
from planner.compress.schema import Plan
from planner.errors import UnsupportedError
from planner.job import Job
from planner.models.traces import Event
from planner.models.tuned import TunedBlock
from planner.planning import plan_graph
from tests.compress.test_autoround import GRADIENT, VALUE, WEIGHT, alloc, block, graph, planned, recipe, step


@pytest.mark.parametrize(
    ("device_ids", "cards"),
    [(None, 1), ("0", 1), ("cuda", 1), ("auto", 1), ("0,1", 2), ("cuda:0, cuda:1", 2), ("0,0,3,1", 3)],
)
def test_gpus_are_counted_as_auto_round_reads_them(device_ids: str | None, cards: int) -> None:
    assert cards_of(device_ids, "") == cards


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
    context = Context(job, keep="timeline", shortcuts=EVERYTHING)
    simulate(make_program(graph(), recipe(**fields), job)[0], context)
    timeline = context.ledger.timeline("cpu")
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


def test_activations_that_wait_on_one_of_many_cards_are_not_modelled() -> None:
    found = replace(graph(), tune=lambda request: replace(spread_block(request.sizes), cards=(1, 2)))
    with pytest.raises(UnsupportedError, match="more than two GPUs"):
        plan_graph(found, recipe(device_ids="0,1,2"), Job(samples=2, offload_device="gpu:1"))
