"""Plans agree with what the real LLM Compressor 0.14.0.1 allocated (recorded; see record.py)."""

import pytest

from tests.measured.accuracy import PAGE, row
from tests.measured.cases import Case, cases
from tests.measured.compare import Device, by_graph, measured, pairs, peak, predicted, steps

CASES = by_graph(cases())


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_every_step_is_planned_and_its_peak_is_within_one_percent(case: Case, device: Device) -> None:
    wrong = [pair for pair in pairs(case, device) if not pair.is_equal]
    assert not wrong, "\n".join(f"{p.what}: {p.predicted} planned, {p.measured} measured" for p in wrong)


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_the_peaks_of_the_job_are_within_one_percent(case: Case, device: Device) -> None:
    assert peak(case, device).is_equal


def test_every_step_of_the_plan_is_measured_but_load_and_save(case: Case) -> None:
    """The meter starts with a loaded model, and writes no files."""
    compared = {step.index for planned, _ in steps(case) for step in planned}
    assert {step.phase for step in predicted(case).steps if step.index not in compared} == {"load", "save"}


def test_its_row_on_the_page_is_up_to_date(case: Case) -> None:
    assert row(case) in PAGE.read_text(encoding="utf-8"), "run `python -m tests.measured.accuracy`"


def test_the_model_has_the_measured_size_and_class(case: Case) -> None:
    facts, theirs = predicted(case).model, measured(case)["model"]
    assert (facts.parameters, facts.bytes, facts.architecture) == (
        theirs["params"],
        theirs["bytes"],
        theirs["architecture"],
    )


def test_runs_were_made_with_the_library_that_the_plan_models(case: Case) -> None:
    assert measured(case)["versions"]["llmcompressor"] == predicted(case).llmcompressor
