"""Saving reads both embeddings onto the GPU, and compares them where they are stored alike."""

from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.oneshot import simulate
from planner.compress.program import StepMemory
from planner.compress.recipes import recipe_from_dict
from planner.cuda.build import CudaBuild
from planner.job import Job
from tests.built import graph_of

VOCABULARY, HIDDEN = 128_256, 4096
TABLE = VOCABULARY * HIDDEN * 2
TEMPORARIES = 525_340_589
"""Requested by torch.equal on two such tensors beside them, on PyTorch's own CUDA build (tests/cudameter)."""


def saved(build: CudaBuild | None = None, *, without_gpu: bool = False, **changes: Any) -> StepMemory:
    """The save step of a Llama-3-8B of two layers, rounded to nearest."""
    job = Job(**{"layers": 2, "samples": 2, "seq_len": 64} | changes.pop("options", {}))
    fields = {"targets": ["Linear"], "scheme": "FP8_DYNAMIC", "ignore": ["lm_head"]} | changes
    recipe = recipe_from_dict({"quant_stage": {"quant_modifiers": {"QuantizationModifier": fields}}}, "toy")
    program, _ = make_program(graph_of("llama-3-8b", job), recipe, job)
    return simulate(program, Context(job, cuda=build, device="cpu" if without_gpu else "gpu")).steps[-1]


def test_both_are_onloaded_and_a_byte_an_element_is_compared() -> None:
    assert saved().gpu.bytes == 2 * TABLE
    assert saved(CudaBuild(sm=90)).gpu.bytes - saved(CudaBuild(sm=90)).gpu.end == 2 * TABLE + TEMPORARIES


def test_a_head_that_is_stored_otherwise_is_read_as_it_is_stored_and_not_compared() -> None:
    head = VOCABULARY * HIDDEN + VOCABULARY * 2
    assert saved(ignore=[]).gpu.bytes == TABLE + head
    assert saved(CudaBuild(sm=90), ignore=[]).gpu.bytes - saved(CudaBuild(sm=90), ignore=[]).gpu.end == TABLE + head


def test_weights_that_lie_on_the_gpu_are_compared_where_they_lie() -> None:
    step = saved(CudaBuild(sm=90), options={"weights": "gpu"})
    assert step.gpu.bytes - step.gpu.end == TEMPORARIES


@pytest.mark.parametrize("build", [None])
def test_without_a_gpu_nothing_is_copied(build: None) -> None:
    step = saved(build, without_gpu=True)
    assert step.cpu.bytes == step.cpu.end
