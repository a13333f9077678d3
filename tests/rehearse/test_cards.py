"""A script may use cards other than its first."""

import json
from pathlib import Path
from typing import Any

from planner.compress.schema import Plan
from planner.job import Job
from planner.rehearse.ranks import heaviest
from planner.rehearse.report import Rehearsed, report
from planner.rehearse.trace import MARK, OUT_OF_MEMORY, RECORD
from planner.reports.plan import formats
from planner.sizing.demands import judged
from planner.units import GIB, MIB, human_bytes
from tests.rehearse.test_report import ENDED, step
from tests.rehearse.test_trace import SCRIPT, Writer

OUT = {"how": "out of memory", "code": 1, "resident": 1, "line": "job.py:4", "text": "CUDA out of memory."}


def cards(folder: Path, peaks: tuple[int, ...], end: dict[str, Any], ran_out: int | None = None) -> Plan:
    """The report of one step that took this on its cards."""
    writer = Writer()
    for card, peak in enumerate(peaks):
        if peak:
            writer.alloc(card, peak, origin=2, device=card)
    if ran_out is not None:
        writer.mark(OUT_OF_MEMORY, nbytes=5 * GIB, address=GIB, device=ran_out)
    writer.mark(MARK)
    writer.trace().records.astype(RECORD).tofile(folder / "trace.bin")
    origin = "/lib/llmcompressor/modifiers/gptq/h.py\tmake_empty_hessian\t9\n" + f"{SCRIPT}\tmain\t4\n"
    (folder / "origins.jsonl").write_text(json.dumps({"origin": 2, "frames": origin}) + "\n")
    one = step("script", 0)
    one["gpus"] = [step("script", peak)["gpus"][0] for peak in peaks]
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, [one, {"event": "end", **end}])) + "\n")
    done = Rehearsed(
        folder=folder,
        script=SCRIPT,
        arguments=(),
        versions={"torch": "2.14.1"},
        job=Job(gpu_memory_bytes=4 * GIB),
        exit_code=end["code"],
        seconds=1.0,
        name="job.py",
    )
    return judged(report(done))


def table(plan: Plan) -> str:
    return formats()["table"](plan, width=None, color=False)


def note(plan: Plan) -> str:
    return " ".join(each.text for each in plan.notes if "Allocated at most" in each.text)


def test_the_card_that_ran_out_is_the_one_that_the_report_is_of(tmp_path: Path) -> None:
    plan = cards(tmp_path, (100 * MIB, 0, 900 * MIB), OUT, ran_out=2)
    assert plan.verdict is not None
    assert (plan.verdict.asked_bytes, plan.verdict.free_bytes) == (5 * GIB, GIB)
    assert plan.script is not None
    assert [each.bytes for each in plan.script.held] == [900 * MIB]
    assert plan.gpu.peak_bytes == 900 * MIB
    assert plan.fits == "no"
    assert note(plan) == (
        "The GPU figures are those of card 2 alone. Allocated at most: "
        f"card 0 {human_bytes(100 * MIB)}, card 2 {human_bytes(900 * MIB)}."
    )


def test_every_card_s_peak_is_told_where_more_than_one_was_used(tmp_path: Path) -> None:
    plan = cards(tmp_path, (300 * MIB, 900 * MIB), ENDED)
    assert plan.gpu.peak_bytes == 300 * MIB
    assert f"card 1 {human_bytes(900 * MIB)}" in note(plan)
    assert not note(cards(tmp_path, (300 * MIB, 0), ENDED))


def test_a_script_that_leaves_its_first_card_alone_needs_a_gpu_all_the_same(tmp_path: Path) -> None:
    plan = cards(tmp_path, (0, 900 * MIB), ENDED)
    assert plan.gpu.peak_bytes == 900 * MIB
    assert "gets through on 4 GiB" in table(plan)
    assert "those of card 1 alone" in note(plan)


def test_a_first_request_that_no_card_has_room_for_is_no_need_of_no_gpu(tmp_path: Path) -> None:
    text = table(cards(tmp_path, (0, 0), OUT, ran_out=0))
    assert "OUT OF MEMORY on 4 GiB" in text
    assert "needs no GPU" not in text


def test_what_nobody_knows_is_not_printed_as_zero_bytes(tmp_path: Path) -> None:
    text = table(cards(tmp_path, (300 * MIB,), OUT))
    assert "OUT OF MEMORY on 4 GiB" in text
    assert "asking for" not in text
    assert " 0 B" not in text


def test_a_rank_that_ran_out_is_reported_before_one_that_took_more(tmp_path: Path) -> None:
    through = cards(tmp_path, (900 * MIB,), ENDED)
    out = cards(tmp_path, (300 * MIB,), OUT, ran_out=0)
    plan = heaviest([through, out])
    assert plan.verdict == out.verdict
    assert plan.ranks is not None
    assert plan.ranks.simulated == 1
