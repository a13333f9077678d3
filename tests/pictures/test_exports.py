"""Forms of a plan's timeline for other programs, on a toy with round numbers."""

import json
import pickle
import pickletools
import struct
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch.cuda._memory_viz as memory_viz

from planner.cli import main
from planner.compress.holdings import Owner
from planner.compress.schema import Plan
from planner.errors import JobError, OutputError
from planner.models.graph import ModelGraph
from planner.pictures import slide
from planner.pictures.exports import check_form, written
from planner.pictures.recording import Recorded, StepEvents
from planner.pictures.snapshot import snapshot, steps_around
from planner.planning import plan_graph
from planner.recipe.specs import Recipe
from tests import toys
from tests.toys import Layer, Linear, Toy

KNOWN = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT"),
    *("SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "MEMOIZE", "BINPUT", "LONG_BINPUT"),
    *("BINGET", "LONG_BINGET"),
}
"""The opcodes that torch/utils/viz/MemoryViz.js `unpickle` knows."""

Drawn = tuple[Plan, ModelGraph, Recipe]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """Four equal layers, so that some steps are copies, and GPTQ, which holds much in few steps."""
    layer = Layer(
        linears=(Linear(name=".q_proj", rows=300, columns=200), Linear(name=".up_proj", rows=500, columns=300))
    )
    toy = Toy(kinds=(layer,), order=(0, 0, 0, 0), tokens=40)
    recipe = toys.recipe(toys.gptq())
    return plan_graph(toy.graph, recipe, toys.job(samples=6), on_card=True), toy.graph, recipe


def counters(text: bytes) -> dict[str, list[tuple[int, int]]]:
    found = defaultdict(list)
    for event in json.loads(text)["traceEvents"]:
        if event["ph"] == "C":
            found[event["name"]].append((event["ts"], event["args"]["bytes"]))
    return found


def test_counters_of_a_trace_are_highest_at_the_plans_peaks_to_the_byte(drawn: Drawn) -> None:
    plan = drawn[0]
    highest = {
        name: max(nbytes for _, nbytes in values) for name, values in counters(written(*drawn, "perfetto")).items()
    }
    assert highest == {
        "GPU requested": plan.gpu.peak_bytes,
        "GPU allocated": plan.gpu.peak_allocated_bytes,
        "GPU reserved": plan.gpu.peak_reserved_bytes,
        "CPU requested": plan.cpu.peak_bytes,
    }


def test_a_trace_has_the_events_that_perfetto_reads(drawn: Drawn) -> None:
    events = json.loads(written(*drawn, "perfetto"))["traceEvents"]
    needs = {"M": {"name", "pid", "args"}, "C": {"name", "pid", "ts", "args"}, "X": {"name", "pid", "tid", "ts", "dur"}}
    for event in events:
        assert needs[event["ph"]] <= set(event)
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0
    (title,) = (event["args"]["name"] for event in events if event["name"] == "process_name")
    assert "not wall time" in title
    for values in counters(written(*drawn, "perfetto")).values():
        assert values == sorted(values, key=lambda each: each[0])


def test_a_trace_has_one_slice_for_every_step_and_they_follow_each_other(drawn: Drawn) -> None:
    events = json.loads(written(*drawn, "perfetto"))["traceEvents"]
    slices = [event for event in events if event["ph"] == "X" and event["tid"] == 2]
    assert [event["args"]["step"] for event in slices] == [step.index for step in drawn[0].steps]
    for before, after in pairwise(slices):
        assert before["ts"] + before["dur"] == after["ts"]


def live(snapshot: dict[str, Any]) -> list[int]:
    """Bytes that are live after every event; every death is of a tensor that lives, at its address."""
    now: dict[int, int] = {}
    totals = []
    for event in snapshot["device_traces"][0]:
        if event["action"] == "alloc":
            assert event["addr"] not in now
            now[event["addr"]] = event["size"]
        elif event["action"] == "free_completed":
            assert now.pop(event["addr"]) == event["size"]
        totals.append(sum(now.values()))
    blocks = [block for segment in snapshot["segments"] for block in segment["blocks"]]
    assert now == {b["address"]: b["requested_size"] for b in blocks if b["state"] == "active_allocated"}
    return totals


def loaded(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = pickle.loads(data)  # noqa: S301  (our own)
    return found


def test_a_snapshot_is_highest_at_the_plans_peak_and_ends_with_what_is_left(drawn: Drawn) -> None:
    plan = drawn[0]
    totals = live(loaded(written(*drawn, "memory-viz")))
    assert max(totals) == plan.gpu.peak_bytes
    assert totals[-1] == plan.steps[steps_around(plan)[-1]].gpu.end_bytes


def test_a_snapshot_of_any_step_has_its_peak_also_where_the_step_is_a_copy(drawn: Drawn) -> None:
    for step in drawn[0].steps:
        assert max(live(loaded(written(*drawn, "memory-viz", step=step.index)))) == step.gpu.peak_bytes


def test_a_copied_steps_tensors_have_its_own_names(drawn: Drawn) -> None:
    step = next(step for step in drawn[0].steps if step.unit.endswith("layers.3") and step.phase == "compress")
    text = str(loaded(written(*drawn, "memory-viz", step=step.index))["device_traces"])
    assert "layers.3.up_proj" in text
    assert "layers.2.up_proj" not in text


def test_the_stack_of_a_tensor_names_owner_role_upstream_function_and_step(drawn: Drawn) -> None:
    trace = loaded(written(*drawn, "memory-viz"))["device_traces"][0]
    stacks = [[(f["filename"], f["name"]) for f in event["frames"]] for event in trace if event["action"] == "alloc"]
    (stack,) = {tuple(stack) for stack in stacks if stack[0][0].endswith("layers.0.up_proj Hessian")}
    assert stack[1] == ("gptq/helpers.py", "make_empty_hessian")
    assert stack[2][0].startswith("step ")


def test_what_is_of_another_kind_in_the_next_step_is_another_tensor(drawn: Drawn) -> None:
    def one(index: int, kind: str) -> StepEvents:
        events = ((1, 600, 1),) if index == 0 else ()
        opening = {1: 600} if index else {}
        return StepEvents(index=index, opening=opening, events=events, about={1: Recorded(Owner("x"), kind, None)})

    def names(*kinds: str) -> list[str]:
        found = snapshot(drawn[0], [one(index, kind) for index, kind in enumerate(kinds)])
        assert live(found)[-1] == 600
        return [event["frames"][0]["name"] for event in found["device_traces"][0] if event["action"] == "alloc"]

    assert names("observer", "hessian") == ["observer", "hessian"]
    assert names("observer", "observer") == ["observer"]


def test_torchs_own_functions_read_a_snapshot(drawn: Drawn) -> None:
    snapshot = loaded(written(*drawn, "memory-viz"))
    lines = memory_viz.memory(snapshot, format_flamegraph=lambda text: text)
    in_use = sum(int(line.rpartition(" ")[2]) for line in lines.splitlines() if ";active_allocated;" in line)
    assert in_use >= live(snapshot)[-1]
    assert "layers" in lines
    assert "cudaMalloc" in memory_viz.trace(snapshot)
    assert "total_reserved" in memory_viz.segsum(snapshot)
    assert memory_viz.segments(snapshot, format_flamegraph=lambda text: text)
    same = memory_viz.compare(snapshot["segments"], snapshot["segments"], format_flamegraph=lambda text: text)
    assert same == ""
    assert "snapshot.pickle" in memory_viz.trace_plot(snapshot)
    assert "Allocator State History" in memory_viz.segment_plot(snapshot)


def test_the_web_page_memory_viz_can_unpickle_a_snapshot(drawn: Drawn) -> None:
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(written(*drawn, "memory-viz"))}
    assert opcodes <= KNOWN


def test_blocks_of_a_snapshot_fill_their_segments_and_no_two_segments_overlap(drawn: Drawn) -> None:
    segments = loaded(written(*drawn, "memory-viz"))["segments"]
    for segment in segments:
        assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"]
    spans = sorted((segment["address"], segment["total_size"]) for segment in segments)
    for (begin, size), (after, _) in pairwise(spans):
        assert begin + size <= after


def test_a_slide_says_model_recipe_verdict_and_where_the_peak_is(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slide.STYLE, "svg.fonttype", "none")  # letters as text, not as curves
    plan = drawn[0]
    root = ElementTree.fromstring(written(*drawn, "svg"))  # noqa: S314  (our own)
    text = " ".join(root.itertext())
    peak = plan.steps[plan.gpu.peak_step]
    for words in (plan.model.name, plan.recipe, "FITS", "reserved", "weights", f"{peak.phase} of {peak.unit}", "GiB"):
        assert words in text


def test_slides_are_of_sixteen_to_nine_and_the_same_every_time(drawn: Drawn) -> None:
    light = written(*drawn, "png")
    assert light[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", light[16:24])
    assert abs(width / height - 16 / 9) < 0.01
    assert written(*drawn, "svg") == written(*drawn, "svg")
    assert written(*drawn, "png", dark=True) != light


def test_without_matplotlib_one_line_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutputError, match=r"pip install 'compression-planner\[picture\]'"):
        check_form("svg", "plan.svg")


@pytest.mark.parametrize(("form", "suffix"), [("png", "png"), ("memory-viz", "pickle")])
def test_what_is_no_text_needs_a_file(form: Any, suffix: str) -> None:
    with pytest.raises(OutputError, match=rf"--output plan\.{suffix}"):
        check_form(form, None)


def test_a_step_or_a_look_that_a_form_does_not_heed_is_one_line(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JobError, match="has steps 0 to"):
        steps_around(drawn[0], 1_000)
    for looks in ("--step 1 --format perfetto", "--step 1", "--dark", "--dark --format perfetto"):
        assert main(f"plan qwen3-0.6b -r rtn_w4a16 {looks}".split()) == 2
        assert f"planner: error: {looks.split()[0]} is for --format" in capsys.readouterr().err
    with pytest.raises(JobError, match="rule-of-thumb"):
        check_form("perfetto", str(tmp_path / "x"), method="rule-of-thumb")
