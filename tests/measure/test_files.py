"""A measurement survives the way to a file and back; what is none is refused by name."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from planner.errors import MeasureError, RecipeError
from planner.job import Job
from planner.measure.files import read_measurement, recipe_file, recipe_text, render
from planner.measure.record import (
    Card,
    CpuFigures,
    GpuFigures,
    HostFacts,
    MeasuredModel,
    MeasuredRecipe,
    MeasuredStep,
    Measurement,
)
from planner.units import GIB
from tests.measured.cases import RUNS, Case, cases


def full() -> Measurement:
    step = MeasuredStep(
        index=0,
        modifier="GPTQModifier",
        subgraph=2,
        of=5,
        phase="compress",
        unit="model.layers.0",
        seconds=1.5,
        partial=True,
        gpu=GpuFigures(requested_bytes=1, allocated_bytes=512, reserved_bytes=2, device_bytes=3, retries=1),
        cpu=CpuFigures(rss_bytes=4),
    )
    return Measurement(
        source="device",
        complete=False,
        stopped="out of memory in 2/5 compress",
        versions={"torch": "2.13.0"},
        card=Card(name="H200", total_bytes=141 * GIB, free_bytes=140 * GIB, driver="570.1", capability="9.0"),
        host=HostFacts(available_bytes=10, baseline_rss_bytes=5),
        model=MeasuredModel(name="toy", config={"model_type": "llama"}),
        recipe=MeasuredRecipe(name="gptq_w4a16", text="quant_stage: {}"),
        job=Job(samples=2),
        steps=(step,),
        notes=("a note",),
    )


def test_a_measurement_is_the_same_after_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(render(full()))
    assert read_measurement(str(path)) == full()


def test_a_record_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="gpu_peak"):
        Measurement.model_validate({**full().model_dump(), "gpu_peak": 1})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "not a measurement: source: Field required"),
        ('{"schema_version": 2, "source": "device", "complete": true}', "not a measurement: schema_version"),
        ('{"gpu": {}, "steps": [], "schema": 1}', "looks like the meter's output, but KeyError"),
    ],
)
def test_what_is_no_measurement_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(MeasureError, match=reason):
        read_measurement(str(path))


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(MeasureError, match=r"nowhere\.json: cannot be read: No such file"):
        read_measurement("nowhere.json")


@pytest.mark.parametrize("case", [case for case in cases() if case.recorded.exists()], ids=lambda case: case.name)
def test_the_meters_runs_are_read_with_the_job_that_was_asked_for(case: Case) -> None:
    measurement = read_measurement(str(case.recorded))
    assert measurement.job == case.job
    assert (measurement.model or MeasuredModel(name="")).name == case.model_name
    assert (measurement.recipe or MeasuredRecipe(name="")).name.removesuffix(".yaml") == case.recipe
    assert all(step.gpu.requested_bytes is not None for step in measurement.steps)


def test_every_recorded_run_is_the_meters() -> None:
    assert {read_measurement(str(path)).source for path in RUNS.glob("*.json")} == {"meter"}


def test_a_recipe_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert recipe_file("gptq_w4a16").name == "gptq_w4a16.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text("a: b")
    assert recipe_text(str(mine)) == "a: b"
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe_text(str(tmp_path / "other.yaml"))
