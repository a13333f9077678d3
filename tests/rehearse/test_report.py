import json
from pathlib import Path
from typing import Any

import pytest

from planner.compress.schema import Plan
from planner.errors import StoppedError
from planner.job import Job
from planner.rehearse.report import Rehearsed, report
from planner.rehearse.trace import ALLOC, ASKED, FREED, MARK, OUT_OF_MEMORY, RECORD
from planner.reports.plan import formats
from planner.sizing.demands import judged
from planner.units import GIB, MIB, human_bytes
from tests.rehearse.test_trace import SCRIPT, Writer

MODEL = {"name": "acme/tiny", "architecture": "TinyForCausalLM", "parameters": 1000, "bytes": 2000, "dtype": "float16"}
ASKED_FOR = {
    "samples": 8,
    "seq_len": 128,
    "batch_size": 2,
    "pipeline": "independent",
    "offload_device": "cuda:1",
    "recipe": "GPTQModifier",
}


def step(phase: str, peak: int, *, unit: str | None = None, cpu: int = 1000, **more: Any) -> dict[str, Any]:
    card = {"requested": peak, "allocated": peak, "reserved": -(-peak // (2 * MIB)) * 2 * MIB, "end": 0, "retries": 0}
    return {
        "event": "step",
        "modifier": "GPTQModifier" if phase != "script" else None,
        "phase": phase,
        "subgraph": 1 if phase in ("calibrate", "compress", "between") else None,
        "of": 1 if phase in ("calibrate", "compress", "between") else None,
        "unit": unit or phase,
        "partial": False,
        "cpu": {"peak": cpu, "end": cpu},
        "gpus": [card],
        **more,
    }


def rehearsed(
    folder: Path, steps: list[dict[str, Any]], peaks: list[int], end: dict[str, Any], *more: Any, torch: str = "2.14.1"
) -> Plan:
    """The report of a child that wrote this: each step takes its peak as one tensor and gives it back."""
    writer = Writer()
    for number, peak in enumerate(peaks):
        writer.alloc(number, peak, origin=2)
        if end["how"] == "out of memory" and number == len(peaks) - 1:
            writer.mark(OUT_OF_MEMORY, nbytes=5 * GIB, address=GIB)
        writer.free(number)
        writer.mark(MARK)
    writer.trace().records.astype(RECORD).tofile(folder / "trace.bin")
    origin = "/lib/llmcompressor/modifiers/gptq/h.py\tmake_empty_hessian\t9\n" + f"{SCRIPT}\tmain\t4\n"
    (folder / "origins.jsonl").write_text(json.dumps({"origin": 2, "frames": origin}) + "\n")
    events = [*more, *steps, {"event": "end", **end}]
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n")
    done = Rehearsed(
        folder=folder,
        script=SCRIPT,
        arguments=("--fast",),
        versions={"torch": torch, "llmcompressor": "0.14.0.1"},
        job=Job(gpu_memory_bytes=4 * GIB),
        exit_code=end["code"],
        seconds=12.3,
        name="job.py",
    )
    return judged(report(done))


WHOLE = [step("load", 0, cpu=9000), step("calibrate", 600 * MIB), step("compress", 900 * MIB), step("script", 10)]
PEAKS = [4, 600 * MIB, 900 * MIB, 10]
ENDED = {"how": "end", "code": 0, "resident": 700 * MIB}
TOLD = (
    {"event": "model", **MODEL},
    {"event": "job", **ASKED_FOR},
    {"event": "note", "kind": "data", "text": "Made up."},
)


def test_a_rehearsal_is_a_plan_and_survives_json(tmp_path: Path) -> None:
    plan = rehearsed(tmp_path, WHOLE, PEAKS, ENDED, *TOLD)
    assert plan.method == "rehearsed"
    assert plan.gpu.peak_bytes == 900 * MIB
    assert plan.steps[plan.gpu.peak_step].phase == "compress"
    assert plan.steps[plan.gpu.peak_step].gpu.by_kind == {"hessian": 900 * MIB}
    assert plan.cpu.peak_bytes == 9000
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_torch_whose_allocator_chooses_otherwise_has_a_note(tmp_path: Path) -> None:
    for torch, there in (("2.12.1", True), ("2.14.1", False)):
        notes = rehearsed(tmp_path, WHOLE, PEAKS, ENDED, *TOLD, torch=torch).notes
        assert any("chooses among equal free blocks otherwise" in note.text for note in notes) is there


def test_the_job_is_what_the_script_asked_oneshot_for(tmp_path: Path) -> None:
    job = rehearsed(tmp_path, WHOLE, PEAKS, ENDED, *TOLD).job
    assert (job.samples, job.seq_len, job.batch_size, job.dtype) == (8, 128, 2, "float16")
    assert job.offload_device == "gpu:1"
    assert job.gpu_memory_bytes == 4 * GIB


def test_parts_sum_to_the_peak_of_every_step(tmp_path: Path) -> None:
    for each in rehearsed(tmp_path, WHOLE, PEAKS, ENDED, *TOLD).steps:
        assert sum(each.gpu.by_kind.values()) == each.gpu.peak_bytes
        assert sum(each.cpu.by_kind.values()) == each.cpu.peak_bytes


def test_what_is_lower_than_the_step_before_has_no_line(tmp_path: Path) -> None:
    low, high = step("between", 20 * MIB), step("between", 990 * MIB)
    for between, peak, shown in ((low, 20 * MIB, False), (high, 990 * MIB, True)):
        plan = rehearsed(tmp_path, [*WHOLE, between], [*PEAKS, peak], ENDED, *TOLD)
        assert ("between" in [each.phase for each in plan.steps]) is shown


def test_a_step_that_the_script_named_is_shown_however_low(tmp_path: Path) -> None:
    named = step("script", 8, unit="evaluation")
    plan = rehearsed(tmp_path, [*WHOLE, named], [*PEAKS, 8], ENDED)
    assert plan.steps[-1].unit == "evaluation"


def test_what_comes_before_the_first_load_is_shown_where_it_took_more(tmp_path: Path) -> None:
    for cpu, card, shown in ((0, 0, False), (48, 0, False), (0, 950 * MIB, True), (9900, 0, True)):
        plan = rehearsed(tmp_path, [step("script", card, cpu=cpu), *WHOLE], [max(card, 4), *PEAKS], ENDED)
        assert (plan.steps[0].phase == "script") is shown
        assert plan.gpu.peak_bytes == max(card, 900 * MIB)
        assert plan.cpu.peak_bytes == max(cpu, 9000)


def test_what_comes_before_the_first_mark_is_shown_however_low(tmp_path: Path) -> None:
    steps = [step("script", 0, cpu=48), step("script", 8, unit="evaluation")]
    assert [each.unit for each in rehearsed(tmp_path, steps, [4, 8], ENDED).steps] == ["script", "evaluation"]


def test_a_script_that_takes_nothing_has_one_step(tmp_path: Path) -> None:
    plan = rehearsed(tmp_path, [step("script", 0, cpu=0)] * 2, [], ENDED)
    assert [each.phase for each in plan.steps] == ["script"]


def test_a_child_that_ended_no_step_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match=r"^job.py: the process ended with code 0, without saying why$"):
        rehearsed(tmp_path, [], [], ENDED)


def test_the_smallest_card_is_found_without_another_run(tmp_path: Path) -> None:
    plan = rehearsed(tmp_path, WHOLE, PEAKS, ENDED, *TOLD)
    context = plan.gpu.context_bytes or 0
    assert plan.gpu.smallest_card_bytes is not None
    assert 900 * MIB + context <= plan.gpu.smallest_card_bytes <= 1.01 * (900 * MIB + context)


@pytest.fixture
def failed(tmp_path: Path) -> Plan:
    text = (
        "CUDA out of memory. Tried to allocate 5.00 GiB. If reserved but unallocated memory is large try setting "
        "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
    )
    end = {"how": "out of memory", "code": 1, "resident": 1, "line": "job.py:4", "text": text}
    steps = [*WHOLE[:2], step("compress", 900 * MIB, partial=True)]
    return rehearsed(tmp_path, steps, PEAKS[:3], end, *TOLD)


def test_running_out_of_memory_says_where_and_what_held_the_card(failed: Plan) -> None:
    assert failed.verdict is not None
    assert (failed.verdict.outcome, failed.verdict.asked_bytes) == ("out of memory", 5 * GIB)
    assert failed.verdict.free_bytes == GIB
    assert failed.verdict.step == failed.steps[-1].index
    assert failed.fits == "no"
    text = formats()["table"](failed, width=None, color=False)
    assert "OUT OF MEMORY on 4 GiB in compress (GPTQModifier, step 2)" in text
    assert "at job.py:4: CUDA out of memory" in text
    assert f"the card held {human_bytes(900 * MIB)} h.py:9 make_empty_hessian from job.py:4" in text
    assert "smallest card" not in text
    assert "expandable_segments" not in text


@pytest.mark.parametrize("form", ["table", "json", "markdown"])
def test_every_report_of_a_plan_takes_a_rehearsal(tmp_path: Path, form: Any) -> None:
    plan = rehearsed(tmp_path, WHOLE, PEAKS, ENDED, *TOLD)
    text = formats()[form](plan, width=None, color=False)
    assert "rehearsed" in text
    assert "job.py" in text


def test_a_script_without_the_library_has_no_job_in_its_report(tmp_path: Path) -> None:
    plan = rehearsed(tmp_path, [step("script", 30 * MIB)], [30 * MIB], ENDED)
    text = formats()["table"](plan, width=None, color=False)
    assert "samples" not in text
    assert "gets through on 4 GiB" in text


def test_a_job_that_asks_what_is_free_gets_a_note(tmp_path: Path) -> None:
    plan = rehearsed(tmp_path, WHOLE, PEAKS, ENDED, *TOLD)
    assert not [note for note in plan.notes if "asks how much" in note.text]
    assert {ALLOC, FREED, ASKED} == {0, 2, 10}  # as driver/deeds.h numbers them


def test_what_a_pipeline_holds_until_it_returns_is_finalizes(tmp_path: Path) -> None:
    steps = [step("calibrate", 600 * MIB), step("finalize", 100 * MIB, cpu=5), step("returning", 300 * MIB, cpu=2)]
    plan = rehearsed(tmp_path, steps, [600 * MIB, 100 * MIB, 300 * MIB], ENDED, *TOLD)
    assert [(each.phase, each.gpu.peak_bytes, each.cpu.peak_bytes) for each in plan.steps] == [
        ("calibrate", 600 * MIB, 1000),
        ("finalize", 300 * MIB, 5),
    ]
    assert sum(plan.steps[1].gpu.by_kind.values()) == 300 * MIB
