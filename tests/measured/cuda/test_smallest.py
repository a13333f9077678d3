"""The smallest card that a plan names is the one that trying finds on PyTorch's own CUDA build (see smallest.py)."""

import json

import pytest

from planner.compress.binding import make_program
from planner.compress.fit import Rehearsal
from planner.compress.recipes import load_recipe
from tests.measured.cuda.cases import CudaCase, cuda_cases
from tests.measured.cuda.compare import graph_of
from tests.measured.cuda.smallest import RECORDED

SHARE = 0.03
MEASURED: dict[str, int] = json.loads(RECORDED.read_text())
CASES = [case for case in cuda_cases() if case.name in MEASURED]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_smallest_card_is_within_three_percent_of_the_one_that_was_found_by_trying(case: CudaCase) -> None:
    job = case.job.model_copy(update={"sm": case.sm})
    program, _ = make_program(graph_of(case.model, job), load_recipe(str(case.recipe_path)), job)
    assert abs(Rehearsal(program, job).smallest() / MEASURED[case.name] - 1) <= SHARE


def test_enough_jobs_were_tried() -> None:
    assert len(CASES) >= 30
