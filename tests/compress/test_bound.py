"""A recipe is bound to a model's modules once for all jobs that it is bound alike for."""

from typing import Any

import pytest

from planner.compress.binding import BESIDE_PROGRAM, OF_SAMPLES, decides_program, make_program
from planner.fields import JOB_FIELDS
from planner.job import Job
from planner.recipe.specs import ModifierSpec
from tests import toys
from tests.toys import Toy

OTHERS: dict[str, Any] = {
    "samples": 9,
    "ranks": 2,
    "targets_per_subgraph": 2,
    "offload_device": "gpu",
    "propagate_error": False,
    "prefetch": True,
    "progress_bars": True,
    "gpu": "L40S",
    "gpu_memory_bytes": 10**9,
    "sm": 80,
    "alloc_conf": "expandable_segments:True",
    "cuda_context_bytes": 1,
}
SPECS: tuple[ModifierSpec, ...] = (toys.rtn(), toys.static_rtn(), toys.gptq(), toys.sparsegpt())


@pytest.mark.parametrize("field", sorted(OTHERS))
def test_what_decides_nothing_of_a_program_makes_the_same_one(field: str) -> None:
    asked = toys.job()
    other = asked.model_copy(update={field: OTHERS[field]})
    assert other != asked
    for spec in SPECS:
        recipe, graph = toys.recipe(spec), Toy().graph
        assert decides_program(recipe, other) == decides_program(recipe, asked)
        assert make_program(graph, recipe, other) == make_program(graph, recipe, asked)


def test_every_field_of_a_job_decides_its_program_or_is_known_not_to() -> None:
    assert set(OTHERS) == BESIDE_PROGRAM | OF_SAMPLES
    assert len(decides_program(toys.recipe(), toys.job())) == 1 + len(JOB_FIELDS) - len(OTHERS)


@pytest.mark.parametrize("field", sorted(OF_SAMPLES))
def test_the_samples_decide_where_they_have_masks(field: str) -> None:
    asked, recipe = toys.job(loss_mask=True), toys.recipe(toys.gptq())
    other = asked.model_copy(update={field: OTHERS[field]})
    assert decides_program(recipe, other) != decides_program(recipe, asked)


def test_a_second_card_makes_another_program() -> None:
    alone, recipe = toys.job(), toys.recipe(toys.gptq())
    beside = alone.model_copy(update={"offload_device": "gpu:1"})
    assert make_program(Toy().graph, recipe, beside) != make_program(Toy().graph, recipe, alone)
    assert decides_program(recipe, beside) != decides_program(recipe, alone)


def test_two_lengths_have_two_programs() -> None:
    recipe = toys.recipe(toys.gptq())
    assert decides_program(recipe, toys.job(seq_len=10)) != decides_program(recipe, Job(samples=2, seq_len=11))
