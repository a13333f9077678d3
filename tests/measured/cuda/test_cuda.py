"""The simulated card agrees with PyTorch's own CUDA build, over a pretended driver (recorded; see record.py)."""

import pytest

from tests.measured.cuda.cases import CudaCase, cuda_cases
from tests.measured.cuda.compare import JOB_SHARE, STEP_SHARE, job_ratio, recorded_cases, second_steps, steps

CASES = recorded_cases()

SHARE_OF_STEPS = 0.95
"""So many steps are within `STEP_SHARE` of requested; the others are above."""


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request: pytest.FixtureRequest) -> CudaCase:
    return request.param  # type: ignore[no-any-return]


def test_no_step_requests_less_than_the_real_one(case: CudaCase) -> None:
    short = [step for step in steps(case) if step.requested < 1 - STEP_SHARE]
    assert not short, "\n".join(f"{s.name}: {s.planned[0]} planned, {s.measured[0]} measured" for s in short)


@pytest.mark.parametrize("figure", [1, 2], ids=["allocated", "reserved"])
def test_the_job_allocates_and_reserves_what_the_real_one_does(case: CudaCase, figure: int) -> None:
    assert abs(job_ratio(case, figure) - 1) <= JOB_SHARE


WITH_SECOND = [case for case in CASES if case.job.has_second_gpu]


@pytest.mark.parametrize("case", WITH_SECOND, ids=lambda case: case.name, scope="function")
def test_a_second_card_holds_what_the_real_one_does_in_every_step(case: CudaCase) -> None:
    both = second_steps(case)
    assert both
    for step in both:
        assert abs(step.requested - 1) <= STEP_SHARE
        assert abs(step.planned[2] - step.measured[2]) <= JOB_SHARE * step.measured[2]


def test_second_cards_were_measured() -> None:
    assert len(WITH_SECOND) >= 2


def test_nearly_all_steps_request_what_the_real_ones_do() -> None:
    every = [step for case in CASES for step in steps(case)]
    near = sum(abs(step.requested - 1) <= STEP_SHARE for step in every)
    assert near >= SHARE_OF_STEPS * len(every)


def test_jobs_have_names_of_their_own() -> None:
    names = [case.name for case in cuda_cases()]
    assert sorted(names) == sorted(set(names))


def test_enough_jobs_are_recorded() -> None:
    assert len(CASES) >= 60
