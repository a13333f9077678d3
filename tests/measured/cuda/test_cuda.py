"""The simulated card agrees with PyTorch's own CUDA build, over a pretended driver (recorded; see record.py)."""

import pytest

from tests.measured.accuracy import PAGE
from tests.measured.cases import cases
from tests.measured.compare import by_graph
from tests.measured.cuda.cases import CudaCase, cuda_cases
from tests.measured.cuda.compare import (
    JOB_SHARE,
    STEP_SHARE,
    job_ratio,
    recorded_cases,
    second_steps,
    steps,
)
from tests.measured.cuda.table import row, smallest_cases

CASES = by_graph(recorded_cases())


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request: pytest.FixtureRequest) -> CudaCase:
    found: CudaCase = request.param
    return found


def test_every_step_requests_and_reserves_what_the_real_one_does(case: CudaCase) -> None:
    far = [s for s in steps(case) if abs(s.requested - 1) > STEP_SHARE or abs(s.reserved - 1) > JOB_SHARE]
    assert not far, "\n".join(f"{s.name}: {s.planned} planned, {s.measured} measured" for s in far)


@pytest.mark.parametrize("figure", [1, 2], ids=["allocated", "reserved"])
def test_the_job_allocates_and_reserves_what_the_real_one_does(case: CudaCase, figure: int) -> None:
    assert abs(job_ratio(case, figure) - 1) <= JOB_SHARE


def test_its_row_on_the_page_is_up_to_date(case: CudaCase) -> None:
    assert row(case) in PAGE.read_text(encoding="utf-8"), "run `python -m tests.measured.accuracy`"


WITH_SECOND = [case for case in CASES if case.has_second]


@pytest.mark.parametrize("case", WITH_SECOND, ids=lambda case: case.name, scope="function")
def test_a_second_card_holds_what_the_real_one_does_in_every_step(case: CudaCase) -> None:
    both = second_steps(case)
    assert both
    for step in both:
        assert abs(step.requested - 1) <= STEP_SHARE
        assert abs(step.planned[2] - step.measured[2]) <= JOB_SHARE * step.measured[2]


def test_second_cards_were_measured() -> None:
    assert len(WITH_SECOND) >= 2


def test_the_page_shows_every_job_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8").partition("## Other releases")[0]
    shown = sum(line.startswith("| ") and not line.startswith("| model") for line in page.splitlines())
    assert shown == sum(case.recorded.exists() for case in cases()) + len(CASES) + len(smallest_cases())


def test_jobs_have_names_of_their_own() -> None:
    names = [case.name for case in cuda_cases()]
    assert sorted(names) == sorted(set(names))


def test_enough_jobs_are_recorded() -> None:
    assert len(CASES) >= 115
