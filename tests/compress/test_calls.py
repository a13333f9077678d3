"""A mixture's experts are called one after the other: what most of them do is known from the first few."""

from functools import lru_cache
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.calls import equal_calls
from planner.compress.context import Context, Shortcuts
from planner.compress.devices import CountingDevice, Device, card
from planner.compress.ledger import Ledger
from planner.compress.oneshot import simulate
from planner.compress.program import Program
from planner.compress.recipes import load_recipe
from planner.cuda.build import CudaBuild
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.load import load_model
from planner.models.source import load_source
from planner.units import GIB
from tests.built import cutting, graph_of

MODEL = "qwen3-30b-a3b"
FEWER = load_source(MODEL).config | {"num_experts": 24}
"""Many more than are walked, and not so many that walking each takes seconds."""
EACH = Shortcuts(calls=False, settled=3)
FEW = Shortcuts(settled=3)


@lru_cache(maxsize=1)
def fewer_of(job: Job) -> ModelGraph:
    return load_model(FEWER, job)


def program(recipe: str, job: Job, graph: ModelGraph) -> Program:
    return make_program(graph, load_recipe(recipe), job)[0]


def figures(program: Program, job: Job, gpu: Device, shortcuts: Shortcuts) -> list[Any]:
    ledger, cuda = Ledger(gpu), CudaBuild() if gpu.places else None
    return [
        (step.phase, step.gpu, step.cpu)
        for step in simulate(program, Context(job, ledger, shortcuts=shortcuts, cuda=cuda)).steps
    ]


@pytest.mark.parametrize("recipe", ["gptq_w4a16", "sparsegpt_2of4", "rtn_w8a8_static"])
@pytest.mark.parametrize(
    "options",
    [{}, {"offload_device": "gpu"}, {"propagate_error": False, "progress_bars": False}, {"pipeline": "basic"}],
    ids=str,
)
def test_experts_that_are_passed_over_change_no_figure(recipe: str, options: dict[str, Any]) -> None:
    job = Job(layers=1, samples=5, batch_size=2, seq_len=512, **options)
    whole = program(recipe, job, fewer_of(cutting(job)))
    for make in (CountingDevice, lambda total: card(total, 0)):
        assert figures(whole, job, make(80 * GIB), FEW) == figures(whole, job, make(80 * GIB), EACH)


def test_the_experts_of_a_mixture_are_equal_calls_and_dense_layers_have_none() -> None:
    job = Job(layers=1)
    (mixture,) = equal_calls(graph_of(MODEL, job).trace.segments[1].events)
    assert mixture.count > 100
    assert not equal_calls(graph_of("llama-3-8b", job).trace.segments[1].events)


def test_calls_of_modules_that_are_not_treated_alike_are_all_walked() -> None:
    job = Job(layers=1)
    graph = graph_of(MODEL, job)
    segment = graph.trace.segments[1]
    (mixture,) = equal_calls(segment.events)
    names = [event.call and event.call.module for event in segment.events]
    (unit,) = (unit for run in program("gptq_w4a16", job, graph).runs for unit in run.units)
    modules = {module.name: module for module in unit.modules}
    assert mixture.are_alike(names, modules)
    del modules[next(name for name in names[mixture.block(70)] if name in modules)]
    assert not mixture.are_alike(names, modules)
