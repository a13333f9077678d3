"""A plan as a table."""

import math
import shlex

import pytest

from planner.commands.common import look
from planner.compress.schema import CpuPeak, GpuPeak, Plan
from planner.compress.verdicts import first_over, verdict
from planner.notes import Note
from planner.reports import compare, markdown, table
from planner.reports.advice import advice_line
from planner.reports.drawing import command_lines
from planner.reports.forms import as_json
from planner.reports.rows import SHORT_TITLES
from planner.units import GIB
from tests.reports.records import load, planned, step, subgraph, with_job, with_memory

# the table


def test_the_table_shows_a_line_per_distinct_step_and_marks_both_peaks(gptq: Plan) -> None:
    text = table.render(gptq, width=100)
    lines = text.splitlines()
    compress = next(line for line in lines if "3.77*" in line)
    assert compress.split() == [
        "compress",
        "3.77*",
        "0.41",
        "0.06",
        "0.77",
        "2.53",
        "│",
        "27.63",
        "15.11",
        "12.51",
        "0.02",
    ]
    assert "model.layers.0-31" in text
    assert len(lines) < 45
    assert sum("*" in line for line in lines) == 3  # GPU peak, CPU peak, legend


def test_the_summary_names_the_exact_bytes_the_step_and_the_tensor(gptq: Plan) -> None:
    text = table.render(gptq)
    assert "GPU peak  3.771 GiB in compress of model.layers.0 (GPTQModifier, step 7)" in text
    assert "4,049,584,142 bytes requested, 4,049,585,664 allocated in 512-byte blocks" in text
    assert "set by workspace (67 %); largest: normalized Hessian 0 of model.layers.0.mlp.down_proj, 0.766 GiB" in text
    assert "rule of thumb 0.813 GiB; this plan is 4.64 times that" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
@pytest.mark.parametrize("name", ["llama-3-8b-gptq_w4a16", "llama-3-8b-rtn_fp8_dynamic"])
def test_no_line_is_wider_than_the_terminal(width: int, name: str) -> None:
    text = table.render(load(name), width=width)
    assert max(map(len, text.splitlines())) <= max(width, 52)  # names and the two peaks are never cut


def test_text_for_a_pipe_is_not_wrapped_and_has_no_colour(gptq: Plan) -> None:
    text = table.render(gptq)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) > 100


def test_the_answer_comes_first_and_then_what_to_type(gptq: Plan) -> None:
    lines = table.render(gptq).splitlines()
    assert lines[0].startswith("verdict   fits in 80 GiB")
    assert lines[2].strip().startswith("planner strategies llama-3-8b")


def test_at_80_columns_words_stay_whole_and_a_command_can_be_copied(gptq: Plan) -> None:
    narrow = table.render(gptq, width=80)
    apart = {word for word in narrow.split() if not word.startswith("─")} - {"\\", *SHORT_TITLES.values()}
    assert apart <= set(table.render(gptq).split())
    assert all(len(line) <= 80 for line in narrow.splitlines())
    told = command_lines("planner fit llama-3-8b --gpu 'RTX 4090' --ram 64GiB --samples 1024 --batch-size 16", 60)
    assert len(told) > 1
    assert shlex.split("\n".join(told))[4] == "RTX 4090"
    assert all(line.endswith(" \\") for line in told[:-1])


def test_a_terminal_gets_colour(gptq: Plan) -> None:
    assert "\x1b[" in table.render(gptq, width=100, color=True)


@pytest.mark.parametrize("width", [60, 100, None])
def test_the_parts_in_a_line_add_up_to_its_peak(gptq: Plan, width: int | None) -> None:
    lines = table.render(gptq, width=width).splitlines()
    titles = next(line for line in lines if line.startswith("step")).replace("step, in GiB", "").split()
    for line in lines:
        if "calibrate" in line or "compress  " in line:
            cells = line.partition("│")[0].split()[-titles.index("│") :]
            numbers = [0.0 if cell == "-" else float(cell.rstrip("*")) for cell in cells]
            parts = numbers[1:]
            assert not parts or math.isclose(sum(parts), numbers[0], abs_tol=0.021)


def test_steps_all_shows_every_layer(gptq: Plan) -> None:
    text = table.render(gptq, steps="all")
    assert all(f"\nmodel.layers.{layer} " in text for layer in range(32))
    assert "alike" not in text


def test_a_plan_that_does_not_fit_says_so_and_names_the_first_step_that_runs_out(gptq: Plan) -> None:
    small = with_memory(gptq, 2 * GIB)
    text = table.render(small)
    first = "the first step that runs out is calibrate of model.layers.0 (GPTQModifier, step 6), at 2.932 GiB"
    assert f"DOES NOT FIT in 2 GiB: 1.771 GiB too much; {first}" in text
    assert "2.93!" in text
    assert "propagate" in text, "the rest is still shown"


def test_estimated_steps_are_marked_and_the_legend_says_what_that_means(gptq: Plan) -> None:
    text = table.render(planned(gptq, step(exact=False), step("model.layers.1", {"weights": 3 * GIB})))
    assert "compress ~" in text
    assert "~ estimated, see notes" in text


def test_several_modifiers_get_a_heading_each(gptq: Plan) -> None:
    sparse = subgraph(1, "head", {"weights": 3 * GIB}, modifier="SparseGPTModifier")
    quantized = subgraph(1, "head", {"weights": 2 * GIB})
    lines = table.render(planned(gptq, *sparse, *quantized)).splitlines()
    assert "SparseGPTModifier" in lines
    assert lines.index("SparseGPTModifier") < lines.index("GPTQModifier")


def test_names_that_look_like_markup_are_shown_as_they_are(gptq: Plan) -> None:
    note = Note(kind="job", text="[bold] note")
    text = table.render(gptq.model_copy(update={"recipe": "[red]x[/red] :smile:", "notes": (note,)}))
    assert "[red]x[/red] :smile:" in text
    assert "notes     [bold] note" in text


def test_a_plan_without_steps_is_a_summary(gptq: Plan) -> None:
    rule = gptq.model_copy(
        update={
            "method": "rule-of-thumb",
            "steps": (),
            "gpu": GpuPeak(peak_bytes=872_448_000, peak_allocated_bytes=872_448_000, peak_step=0),
            "cpu": CpuPeak(peak_bytes=16_060_522_496, peak_step=0),
        }
    )
    text = table.render(rule)
    assert "step, in GiB" not in text
    assert "GPU peak  0.813 GiB" in text
    assert "--method simulate" in text
    assert markdown.render(rule).startswith("### ")
    assert "rule_of_thumb" in as_json(rule)
    assert compare.render([rule, rule])


# advice


def test_a_plan_with_no_room_for_what_is_not_tensors_is_tight(gptq: Plan) -> None:
    peak = gptq.gpu.peak_allocated_bytes
    assert verdict(with_memory(gptq, peak - 1)) == "over"
    assert verdict(with_memory(gptq, peak)) == "tight"
    assert verdict(with_memory(gptq, peak + GIB)) == "fits"
    assert first_over(with_memory(gptq, peak)) is None


@pytest.mark.parametrize(("memory", "command"), [(80 * GIB, "strategies"), (2 * GIB, "fit")])
def test_advice_is_the_command_that_plans_what_else_could_be_done(gptq: Plan, memory: int, command: str) -> None:
    assert f"planner {command} llama-3-8b -r gptq_w4a16" in advice_line(with_memory(gptq, memory))


def test_a_plan_that_needs_no_gpu_says_so(gptq: Plan) -> None:
    plan = with_job(planned(gptq, step("model", {}, phase="calibrate"), step("model", {})), pipeline="basic")
    text = table.render(plan)
    assert "needs no GPU" in text
    assert "leave out --pipeline" in text
    assert "0 bytes requested" not in text


@pytest.mark.parametrize(
    ("columns", "width"), [("100", 100), ("12", None), ("", None), ("wide", None), ("9" * 5_000, None), ("²²", None)]
)
def test_in_a_pipe_columns_says_the_width_if_it_is_one(
    columns: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert look(None) == {"width": width, "color": False}
    assert look("plan.txt")["width"] is None
