"""A plan beside a measurement: right where it is right, and where not, who is missing."""

import json
from pathlib import Path

import pytest

from planner.cli import main
from planner.compress.schema import Plan
from planner.measure.accuracy import compare
from planner.measure.files import read_measurement, render
from planner.measure.record import CpuFigures, GpuFigures, HostFacts, MeasuredStep, Measurement
from planner.units import GIB, MIB
from tests.measured.cases import RUNS

LOGS = Path(__file__).parent.parent / "data" / "logs"
GPTQ = "llama-3-8b-gptq_w4a16-layers3-seqlen2048-batchsize1.json"
PLAN = Path(__file__).parent.parent / "data" / "plans" / "llama-3-8b-gptq_w4a16.json"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.model_validate_json(PLAN.read_text(encoding="utf-8"))


def as_planned(plan: Plan, **changes: int) -> Measurement:
    """A device's measurement that agrees with the plan, but for bytes added to the steps of a phase."""
    steps = [
        MeasuredStep(
            index=step.index,
            modifier=step.modifier,
            subgraph=step.subgraph,
            of=step.of,
            phase=step.phase,
            unit=step.unit,
            gpu=GpuFigures(
                requested_bytes=step.gpu.peak_bytes + changes.get(step.phase, 0),
                allocated_bytes=step.gpu.peak_allocated_bytes + changes.get(step.phase, 0),
                reserved_bytes=step.gpu.peak_allocated_bytes + 100 * MIB,
            ),
            cpu=CpuFigures(rss_bytes=step.cpu.peak_bytes + 1000 * MIB),
        )
        for step in plan.steps
        if step.phase != "save"
    ]
    return Measurement(
        source="device", complete=True, host=HostFacts(baseline_rss_bytes=1000 * MIB), steps=tuple(steps)
    )


@pytest.mark.parametrize(
    "run",
    [
        GPTQ,
        "llama-3-8b-rtn_fp8_dynamic-layers3.json",
        "llama-3-8b-sparsegpt_then_gptq-layers3.json",
        "qwen2.5-vl-7b-rtn_w8a8_static-layers3-images1-imagesize644x644.json",
    ],
)
def test_the_meters_runs_are_planned_to_three_decimals(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", str(RUNS / run), "--format", "json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    figures = {figure["name"]: figure for figure in job["figures"]}
    assert set(figures) == {"gpu_requested", "gpu_allocated", "cpu_tensors"}
    for name in ("gpu_requested", "gpu_allocated"):
        assert round(figures[name]["peak"]["ratio"], 3) == 1.0
        assert round(figures[name]["median_ratio"], 3) == 1.0
        assert figures[name]["equal"] == figures[name]["steps"] > 0
    assert job["suspects"] == []
    assert not any("not in the plan" in note for note in job["notes"])


@pytest.mark.parametrize(("options", "word"), [((), "1.000"), (("--format", "markdown"), "| 1.000 |")])
def test_the_tables_show_peak_worst_and_median(
    options: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["accuracy", str(RUNS / GPTQ), "--every-step", *options]) == 0
    out = capsys.readouterr().out
    assert word in out
    assert "2/4 compress (model.layers.0)" in out
    assert "none differs" in out


def test_equal_is_equal(plan: Plan) -> None:
    found = compare(plan, as_planned(plan))
    assert [figure.name for figure in found.figures] == ["gpu_requested", "gpu_allocated", "cpu_process"]
    assert all(figure.median_ratio == 1.0 and figure.worst is None for figure in found.figures)
    assert [unplanned.name for unplanned in found.unplanned] == ["gpu_reserved"]


def test_a_plan_with_the_allocator_is_held_against_reserved_and_the_whole_card(plan: Plan) -> None:
    reserved = 3 * GIB
    steps = tuple(
        s.model_copy(update={"gpu": s.gpu.model_copy(update={"peak_reserved_bytes": reserved})}) for s in plan.steps
    )
    gpu = plan.gpu.model_copy(update={"context_bytes": GIB})
    placed = plan.model_copy(update={"steps": steps, "gpu": gpu})
    measured = as_planned(plan)
    figures = {"reserved_bytes": reserved, "device_bytes": 5 * GIB}
    measured = measured.model_copy(
        update={"steps": tuple(s.model_copy(update={"gpu": s.gpu.model_copy(update=figures)}) for s in measured.steps)}
    )
    found = {figure.name: figure for figure in compare(placed, measured).figures}
    assert found["gpu_reserved"].peak.ratio == 1.0
    assert (found["gpu_device"].peak.planned, found["gpu_device"].peak.measured) == (4 * GIB, 5 * GIB)
    assert compare(placed, measured).unplanned == ()


def test_a_buffer_that_the_plan_lacks_is_named_by_an_owner_of_its_size(plan: Plan) -> None:
    compress = max((s for s in plan.steps if s.phase == "compress"), key=lambda s: s.gpu.peak_bytes)
    owned = compress.gpu.largest[0]
    found = compare(plan, as_planned(plan, compress=owned.bytes))
    texts = " ".join(suspect.text for suspect in found.suspects)
    assert "missing: as if" in texts
    assert owned.kind in texts
    assert all(suspect.phase == "compress" and suspect.difference < 0 for suspect in found.suspects)
    worst = found.figures[0].worst
    assert worst is not None
    assert worst.ratio < 1


def test_what_the_plan_has_too_much_is_named(plan: Plan) -> None:
    batch = next(s for s in plan.steps if s.phase == "propagate" and s.unit != "head").gpu.by_kind["batch"]
    found = compare(plan, as_planned(plan, propagate=-batch))
    assert any("too much: as if all of batch were not there" in suspect.text for suspect in found.suspects)


def test_a_size_that_nothing_has_is_said_to_be_unknown(plan: Plan) -> None:
    found = compare(plan, as_planned(plan, compress=333 * MIB))
    assert any("no owner that the plan knows has this size" in suspect.text for suspect in found.suspects)


def test_with_kinds_the_part_that_differs_is_named(plan: Plan) -> None:
    run = read_measurement(str(RUNS / GPTQ))
    steps = [
        step.model_copy(
            update={
                "gpu": step.gpu.model_copy(
                    update={
                        "requested_bytes": (step.gpu.requested_bytes or 0) + 500 * MIB,
                        "by_kind": {**(step.gpu.by_kind or {}), "observer": 500 * MIB},
                    }
                )
            }
        )
        if step.phase == "compress"
        else step
        for step in run.steps
    ]
    found = compare(plan, run.model_copy(update={"steps": tuple(steps)}))
    assert {suspect.text for suspect in found.suspects if suspect.phase == "compress"} == {"missing: observers"}


def test_steps_that_are_not_planned_and_a_full_card_are_remarked(plan: Plan) -> None:
    measured = as_planned(plan)
    other = measured.steps[3].model_copy(update={"subgraph": 99, "gpu": GpuFigures(retries=2)})
    found = compare(plan, measured.model_copy(update={"steps": (*measured.steps, other)}))
    assert any("1 measured steps are not in the plan: 99/" in note for note in found.notes)
    assert any("2 times" in note for note in found.notes)


def test_the_step_in_which_a_job_stopped_does_not_count(plan: Plan) -> None:
    measured = as_planned(plan)
    half = measured.steps[5].model_copy(update={"partial": True, "gpu": GpuFigures(requested_bytes=1)})
    stopped = measured.model_copy(update={"steps": (*measured.steps[:5], half), "complete": False, "stopped": "oom"})
    found = compare(plan, stopped)
    assert found.figures[0].steps == 5
    assert found.figures[0].equal == 5
    assert (found.complete, found.stopped) == (False, "oom")


def test_a_log_is_held_against_the_highest_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.json"
    assert main(["measure", "--log", str(LOGS / "gptq_w4a16_console.log"), "-o", str(run)]) == 0
    options = ["--model", "llama-3-8b", "--recipe", "gptq_w4a16", "--layers", "2", "--samples", "4"]
    assert main(["accuracy", str(run), *options, "--format", "json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    (figure,) = job["figures"]
    assert figure["name"] == "gpu_allocated"
    assert figure["steps"] == 2
    # the log is the counting device's, which knows neither cholesky_inverse's copies nor cuBLAS's workspace; a log
    # does not say so, and is taken for a card's
    assert figure["peak"]["ratio"] == pytest.approx(4_534_951_936 / 4_049_585_664, abs=0.002)


def test_a_run_that_does_not_say_what_it_was_asks_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.json"
    run.write_text(render(Measurement(source="log", complete=False)))
    assert main(["accuracy", str(run)]) == 2
    assert "does not say what was run; name it with --model" in capsys.readouterr().err
