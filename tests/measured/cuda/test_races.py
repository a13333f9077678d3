"""Jobs on several GPUs whose autograd threads race: every run lies between what some order of theirs takes."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.oneshot import simulate
from planner.compress.recipes import load_recipe
from planner.compress.tuning import raced
from planner.cuda.build import CudaBuild
from planner.job import Job
from tests.measured.autoround import CONFIGS
from tests.measured.cases import RECIPES
from tests.measured.cuda.compare import graph_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Two layers, eight samples of 512 tokens, three iterations; requested bytes of one card in `compress` of both."""

    config: str
    recipe: str
    card: int
    first: tuple[int, ...]
    """Of the first layer, run by run."""
    second: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


COHERE2 = Race(
    config="cohere2.json",
    recipe="autoround_gpus2",
    card=0,
    first=(3897053192, 3897053192, 3576188936, 3728101384, 3762966536, 3897053192, 3897053192),
    second=(3892867080, 3892867080, 3892867080, 3572002824, 3723915272, 3892867080, 3892867080),
)
EXPERTS = Race(
    config="qwen3-moe-16.json",
    recipe="autoround_gpus4",
    card=1,
    first=(698454016, 681676800, 699392000),
    second=(698454016, 721522688, 704745472),
    options={"linearized": True},
)
"""The latest three of seven runs; of the four before, 688 to 722 MB were noted."""


MADE_LINEAR = Race(
    config="qwen3-moe-16.json",
    recipe="autoround_gpus2",
    card=1,
    first=(1286926336, 1270149120, 1277378560, 1286926336),
    second=(1286926336, 1303703552, 1270149120, 1320480768),
    options={"weights": "gpu"},
)
"""Experts that become Linears on the GPU, and leave it with their layer."""


@pytest.mark.parametrize(
    "race", [COHERE2, EXPERTS, MADE_LINEAR], ids=["cohere2", "qwen3-moe-16", "qwen3-moe-16 on the GPU"]
)
def test_no_run_takes_more_than_the_order_that_takes_most(race: Race) -> None:
    job = Job(layers=2, samples=8, seq_len=512, progress_bars=False, **race.options)
    graph = graph_of(str(CONFIGS / race.config), job)
    program, notes = make_program(graph, load_recipe(str(RECIPES / f"{race.recipe}.yaml")), job)
    steps = simulate(program, Context(job, cuda=CudaBuild(sm=90))).steps
    more = raced(program.tuned)[race.card]
    for subgraph, runs in ((2, race.first), (3, race.second)):
        (step,) = (step for step in steps if (step.subgraph, step.phase) == (subgraph, "compress"))
        peak = step.second_gpu if race.card else step.gpu
        assert peak is not None
        assert max(runs) <= peak.bytes + more
        assert max(runs) > peak.bytes * 1.01, "the usual order alone does not say it"
    assert any(f"more on GPU {race.card}" in note.text for note in notes)


def test_the_order_that_takes_most_was_met() -> None:
    job = Job(layers=2, samples=8, seq_len=512, progress_bars=False)
    graph = graph_of(str(CONFIGS / COHERE2.config), job)
    program, _ = make_program(graph, load_recipe(str(RECIPES / f"{COHERE2.recipe}.yaml")), job)
    steps = simulate(program, Context(job, cuda=CudaBuild(sm=90))).steps
    peaks = [step.gpu.bytes for step in steps if step.phase == "compress" and step.subgraph in (2, 3)]
    more = raced(program.tuned)[0]
    assert [peak + more for peak in peaks] == [max(COHERE2.first), max(COHERE2.second)]
