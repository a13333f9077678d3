"""Jobs on a machine without a GPU: everything is computed where the weights lie."""

from typing import Any

import pytest

from planner.compress.context import EVERYTHING
from planner.compress.schema import Plan
from planner.planning import plan_graph
from tests import toys

SPECS = [toys.static_rtn(), toys.gptq(), toys.sparsegpt(), toys.rtn()]
TOY = toys.Toy(order=(0, 0, 0, 0))


def plan(spec: Any, **options: Any) -> Plan:
    return plan_graph(TOY.graph, toys.recipe(spec), toys.job(samples=5), **options)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_nothing_is_on_a_gpu(spec: Any) -> None:
    assert not any(step.gpu.peak_bytes for step in plan(spec, without_gpu=True).steps)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_weights_and_batches_are_not_copied(spec: Any) -> None:
    for step in plan(spec, without_gpu=True).steps:
        assert "batch" not in step.cpu.by_kind
        assert step.cpu.by_kind.get("model") == TOY.weight_bytes


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_no_step_takes_more_than_both_devices_do_with_a_gpu(spec: Any) -> None:
    alone, with_gpu = plan(spec, without_gpu=True), plan(spec)
    assert [step.phase for step in alone.steps] == [step.phase for step in with_gpu.steps]
    for one, two in zip(alone.steps, with_gpu.steps, strict=True):
        assert one.cpu.peak_bytes <= two.cpu.peak_bytes + two.gpu.peak_bytes


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_walking_all_of_it_changes_no_figure(spec: Any) -> None:
    short, whole = plan(spec, without_gpu=True), plan(spec, without_gpu=True, shortcuts=EVERYTHING)
    assert [(s.cpu.peak_bytes, s.cpu.end_bytes, s.cpu.by_kind) for s in short.steps] == [
        (s.cpu.peak_bytes, s.cpu.end_bytes, s.cpu.by_kind) for s in whole.steps
    ]


def test_the_basic_pipeline_computes_there_anyway() -> None:
    job = toys.job(pipeline="basic")
    with_gpu, alone = (
        plan_graph(TOY.graph, toys.recipe(toys.gptq()), job, without_gpu=without) for without in (False, True)
    )
    assert with_gpu.steps == alone.steps
