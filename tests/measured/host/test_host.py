"""RAM and disk as planned agree with real processes of LLM Compressor 0.14.0.1 (recorded; see record.py)."""

import pytest

from planner.compress.host_schema import HostPhase
from tests.measured.host.cases import Run, disk, measured, phases, predicted, runs
from tests.measured.host.limits import Limited, limited

RESIDENT, MUST_HAVE = 0.05, 0.10
"""The goal: planned figures are within this share of the measured ones."""
RUNS = list(runs())


@pytest.fixture(params=RUNS, ids=lambda run: run.name, scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


KNOWN = {
    # malloc kept 52 to 101 MiB of what a layer's forward had freed, in one layer of sixteen; the plan says 51 for all
    ("llama-3.2-1b-rtn_w8a8_static-s2", "anonymous"): {"compress"},
    # copies of weights on disk are freed once they are written, and malloc found no use for 507 MiB of free memory
    ("qwen3-0.6b-rtn_w8a8_static-s4-t256-budget600000000", "resident"): {"save"},
    ("qwen3-0.6b-rtn_w8a8_static-s4-t256-budget600000000", "anonymous"): {"save"},
}
"""Phases that miss the goal, by run and figure. Each is named in docs/ram.md with its numbers."""


def _off(run: Run, figure: str, planned: str, share: float) -> dict[str, str]:
    """Phases whose planned figure is off by more than this share, and how far."""
    measurements = phases(run)

    def ratio(phase: HostPhase) -> float:
        return float(getattr(phase, planned) / measurements[phase.phase][figure])

    return {
        phase.phase: f"{getattr(phase, planned):,} planned, {measurements[phase.phase][figure]:,} measured, "
        f"{100 * ratio(phase) - 100:+.1f} %"
        for phase in predicted(run).phases
        if phase.phase in measurements and abs(ratio(phase) - 1) > share
    }


def test_resident_memory_is_within_five_percent_in_every_phase_but_those_that_are_known(run: Run) -> None:
    wrong = _off(run, "resident", "resident_bytes", RESIDENT)
    assert wrong.keys() == KNOWN.get((run.name, "resident"), set()), wrong


def test_what_a_job_must_have_is_within_ten_percent_in_every_phase_but_those_that_are_known(run: Run) -> None:
    """Measured: anonymous pages, which the kernel cannot drop without swap."""
    wrong = _off(run, "anonymous", "must_have_bytes", MUST_HAVE)
    assert wrong.keys() == KNOWN.get((run.name, "anonymous"), set()), wrong


def test_every_phase_of_the_process_is_planned(run: Run) -> None:
    own = {"data", "between", "end", "collect", "trim"}  # the hostmeter's, beside those of the job
    assert phases(run).keys() - own <= {phase.phase for phase in predicted(run).phases}


def test_the_peak_lies_in_the_phase_where_it_was_measured(run: Run) -> None:
    measurements = phases(run)
    highest = max(measurements[phase.phase]["resident"] for phase in predicted(run).phases)
    planned = measurements[predicted(run).peak_resident_phase]["resident"]
    assert planned >= (1 - RESIDENT) * highest


def test_the_saved_files_are_planned_to_the_byte(run: Run) -> None:
    saved = {name: size for name, size in measured(run)["saved"].items() if name.endswith(".safetensors")}
    planned = disk(run)
    assert planned.saved_files == len(saved)
    assert planned.saved_header_bytes == sum(measured(run)["saved_headers"].values())
    assert planned.saved_checkpoint_bytes == sum(saved.values()) - sum(measured(run)["saved_headers"].values())


def test_the_checkpoint_is_planned_to_the_byte(run: Run) -> None:
    if measured(run)["args"]["layers"] is None:  # a job of some layers reads a part of the file
        assert disk(run).checkpoint_bytes == measured(run)["checkpoint"]["bytes"]


def test_runs_were_made_with_the_library_that_the_plan_models(run: Run) -> None:
    assert measured(run)["versions"]["llmcompressor"] == "0.14.0.1"


@pytest.mark.parametrize("attempt", limited(), ids=lambda attempt: attempt.name)
def test_a_job_with_less_than_it_must_have_is_killed_and_with_more_is_not(attempt: Limited) -> None:
    host = predicted(attempt.run)
    assert abs(attempt.limit / host.peak_must_have_bytes - 1) > MUST_HAVE, "too near to tell"
    assert attempt.was_killed == (attempt.limit < host.peak_must_have_bytes)
