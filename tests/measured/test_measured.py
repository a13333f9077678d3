"""Plans agree with what the real LLM Compressor 0.14.0.1 allocated (recorded; see record.py)."""

import pytest

from planner.units import MIB
from tests.measured.cases import Case, cases
from tests.measured.compare import cpu_peak, gpu_pairs, gpu_peak, measured, predicted

SHARE = 0.01
SMALL = 4 * MIB
CASES = list(cases())


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


def test_every_step_is_planned_and_its_gpu_peak_is_within_one_percent(case: Case) -> None:
    wrong = [pair for pair in gpu_pairs(case) if not pair.within(SHARE, SMALL)]
    assert not wrong, "\n".join(f"{p.what}: {p.predicted} planned, {p.measured} measured" for p in wrong)


def test_the_peaks_of_the_job_are_within_one_percent(case: Case) -> None:
    assert gpu_peak(case).within(SHARE, SMALL)
    assert cpu_peak(case).within(SHARE, SMALL)


def test_the_model_has_the_measured_size_and_class(case: Case) -> None:
    facts, theirs = predicted(case).model, measured(case)["model"]
    assert (facts.parameters, facts.bytes, facts.architecture) == (
        theirs["params"],
        theirs["bytes"],
        theirs["architecture"],
    )  # type: ignore[index]


def test_runs_were_made_with_the_library_that_the_plan_models(case: Case) -> None:
    assert measured(case)["versions"]["llmcompressor"] == predicted(case).llmcompressor  # type: ignore[index]
