import json
import math
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.compress.holdings import Owner
from planner.compress.parts import cpu_parts, gpu_parts
from planner.compress.schema import CpuPeak, CpuStep, GpuPeak, GpuStep, Owned, Plan, Step
from planner.compress.verdicts import first_over, verdict
from planner.hardware.demand import demand
from planner.models.graph import Edge, ModelGraph, Unit
from planner.notes import Note
from planner.reports import compare, graph, json_, markdown, table
from planner.reports.advice import advice_line
from planner.reports.drawing import command_lines
from planner.reports.folding import fold, label, nearly_folded, unfolded
from planner.reports.forms import as_json
from planner.reports.rows import SHORT_TITLES, rows
from planner.units import GIB

DATA = Path(__file__).parent / "data" / "plans"


def load(name: str) -> Plan:
    return Plan.model_validate_json((DATA / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def gptq() -> Plan:
    return load("llama-3-8b-gptq_w4a16")


@pytest.fixture(scope="module")
def rtn() -> Plan:
    return load("llama-3-8b-rtn_fp8_dynamic")


def with_memory(plan: Plan, count: int) -> Plan:
    return plan.model_copy(update={"job": plan.job.model_copy(update={"gpu_memory_bytes": count})})


def with_job(plan: Plan, **options: object) -> Plan:
    return plan.model_copy(update={"job": plan.job.model_copy(update=options)})


def step(
    unit: str = "model.layers.0",
    by_kind: dict[str, int] | None = None,
    *,
    experts: bool = False,
    copies: int = 1,
    **fields: object,
) -> Step:
    kinds = {"weights": GIB} if by_kind is None else by_kind
    peak = sum(kinds.values())
    share = 256 if experts else 1
    largest = tuple(Owned.of(Owner(unit, kind, copies), kind, count // share) for kind, count in kinds.items())
    record = {
        "index": 0,
        "modifier": "GPTQModifier",
        "subgraph": 2,
        "of": 3,
        "phase": "compress",
        "unit": unit,
        "exact": True,
        "gpu": GpuStep(peak_bytes=peak, peak_allocated_bytes=peak, end_bytes=0, by_kind=kinds, largest=largest),
        "cpu": CpuStep(peak_bytes=GIB, end_bytes=GIB, by_kind={"model": GIB}, largest=()),
    }
    return Step.model_validate(record | fields)


def planned(plan: Plan, *steps: Step) -> Plan:
    """The plan with other steps, and the peaks that follow from them."""
    numbered = tuple(each.model_copy(update={"index": index}) for index, each in enumerate(steps))
    gpu = max(numbered, key=lambda each: each.gpu.peak_bytes)
    cpu = max(numbered, key=lambda each: each.cpu.peak_bytes)
    return plan.model_copy(
        update={
            "steps": numbered,
            "gpu": GpuPeak(
                peak_bytes=gpu.gpu.peak_bytes, peak_allocated_bytes=gpu.gpu.peak_allocated_bytes, peak_step=gpu.index
            ),
            "cpu": CpuPeak(peak_bytes=cpu.cpu.peak_bytes, peak_step=cpu.index),
        }
    )


def subgraph(number: int, unit: str, by_kind: dict[str, int], **fields: object) -> list[Step]:
    phases = ("calibrate", "compress", "propagate")
    return [step(unit, by_kind, subgraph=number, phase=phase, **fields) for phase in phases]


# parts


KINDS = st.dictionaries(
    st.sampled_from(["weights", "forward", "hessian", "batch", "brand_new"]), st.integers(0, 10**12)
)


@given(KINDS)
def test_parts_sum_to_the_peak_whatever_the_kinds(by_kind: dict[str, int]) -> None:
    assert sum(gpu_parts(by_kind).values()) == sum(cpu_parts(by_kind).values()) == sum(by_kind.values())


def test_a_kind_that_nobody_knows_is_other_and_not_lost() -> None:
    assert gpu_parts({"brand_new": 7})["other"] == 7


# folding


def test_equal_layers_fold_into_one_with_their_count(gptq: Plan) -> None:
    folds = [(each.label, each.count) for each in fold(gptq.steps)]
    assert folds == [
        ("load", 1),
        ("setup", 1),
        ("activation cache", 1),
        ("head", 1),
        ("model.layers.0", 1),
        ("model.layers.1-30", 30),
        ("model.layers.31", 1),
        ("finalize", 1),
        ("save", 1),
    ]


def test_unfolded_shows_every_step_once_and_in_order(gptq: Plan) -> None:
    shown = [each.index for fold in unfolded(gptq.steps) for block in fold.blocks for each in block.steps]
    assert shown == list(range(len(gptq.steps)))


def test_folding_loses_no_step(gptq: Plan) -> None:
    shown = [each.index for fold in fold(gptq.steps) for block in fold.blocks for each in block.steps]
    assert sorted(shown) == list(range(len(gptq.steps)))


def test_folded_rows_have_the_same_peaks_as_all_rows(gptq: Plan) -> None:
    folded, every = rows(gptq, "distinct"), rows(gptq, "all")
    assert max(row.gpu for row in folded) == max(row.gpu for row in every) == gptq.gpu.peak_bytes
    assert max(row.cpu for row in folded) == max(row.cpu for row in every) == gptq.cpu.peak_bytes
    assert {row.gpu for row in folded} == {row.gpu for row in every}


def test_a_kind_of_step_has_one_line_with_its_highest_peaks(gptq: Plan) -> None:
    kinds, every = rows(gptq), rows(gptq, "all")
    assert [row.label for row in kinds if row.count > 1] == ["model.layers.0-31", "  (highest of 32)", ""]
    for kind in (row for row in kinds if row.count > 1):
        of_it = [row for row in every if row.phase == kind.phase and row.modifier and row.gpu_parts["hessians"] >= 0]
        layers = [row for row in of_it if abs(row.gpu - kind.gpu) < kind.gpu / 10]
        assert kind.gpu == max(row.gpu for row in layers) == sum(kind.gpu_parts.values())
    assert max(row.gpu for row in kinds) == gptq.gpu.peak_bytes
    assert max(row.cpu for row in kinds) == gptq.cpu.peak_bytes


def test_layers_of_one_name_that_differ_by_more_than_a_twentieth_keep_lines_of_their_own() -> None:
    dense, nearly, sparse = {"weights": 100}, {"weights": 96}, {"weights": 90}
    steps = [
        each
        for layer, parts in enumerate((dense, nearly, sparse))
        for each in subgraph(layer + 2, f"model.layers.{layer}", parts)
    ]
    folds = [(each.label, each.count, each.is_alike) for each in nearly_folded(steps)]
    assert folds == [("model.layers.0-1", 2, False), ("model.layers.2", 1, True)]


def test_alternating_layers_make_two_folds() -> None:
    dense, sparse = {"weights": 3}, {"weights": 5}
    steps = [
        each
        for layer in range(6)
        for each in subgraph(layer + 2, f"model.layers.{layer}", sparse if layer % 2 else dense)
    ]
    assert [(each.label, each.count) for each in fold(steps)] == [
        ("model.layers.0, 2, 4", 3),
        ("model.layers.1, 3, 5", 3),
    ]


def test_a_growing_cpu_peak_does_not_stop_folding_and_its_highest_is_shown(gptq: Plan) -> None:
    steps = [
        step(
            f"model.layers.{n}",
            subgraph=n + 2,
            cpu=CpuStep(peak_bytes=n, end_bytes=0, by_kind={"model": n}, largest=()),
        )
        for n in range(5)
    ]
    (row,) = rows(planned(gptq, *steps))
    assert (row.count, row.cpu, row.cpu_parts["weights"]) == (5, 4, 4)


def test_the_head_never_folds_with_a_layer() -> None:
    steps = [*subgraph(1, "head", {"weights": 3}), *subgraph(2, "model.layers.0", {"weights": 3})]
    assert [each.label for each in fold(steps)] == ["head", "model.layers.0"]


def test_each_pipeline_run_keeps_its_own_steps() -> None:
    first = subgraph(1, "head", {"weights": 3}) + subgraph(2, "model.layers.0", {"weights": 4})
    second = [each.model_copy(update={"modifier": "SparseGPTModifier"}) for each in first]
    folds = fold([*first, *second, *second])
    assert [(each.run, each.label) for each in folds] == [
        (run, name) for run in (0, 1, 2) for name in ("head", "model.layers.0")
    ]


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (["head"], "head"),
        (["model.layers.1", "model.layers.2", "model.layers.3"], "model.layers.1-3"),
        (["a.0.b", "a.1.b", "a.5.b"], "a.0-1, 5.b"),
        (["model.layers.1", "model.visual.blocks.2"], "model.layers.1 … model.visual.blocks.2"),
        ([f"l.{n}" for n in range(0, 20, 2)], "l.0, 2, … 18"),
        (["l.0.m.0", "l.0.m.1", "l.1.m.0"], "l.0.m.0 … l.1.m.0"),
    ],
)
def test_units_are_named_as_ranges_where_they_are_numbered(units: list[str], text: str) -> None:
    assert label(units) == text


@given(st.lists(st.integers(0, 60), min_size=1, max_size=61, unique=True).map(sorted))
def test_a_range_names_its_first_and_last_unit(numbers: list[int]) -> None:
    text = label([f"model.layers.{number}" for number in numbers])
    assert text.startswith(f"model.layers.{numbers[0]}")
    assert text.endswith(str(numbers[-1]))


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


# JSON and markdown


def test_json_is_the_record_itself(gptq: Plan) -> None:
    assert Plan.model_validate_json(as_json(gptq)) == gptq
    assert json.loads(as_json(gptq)) == gptq.model_dump(mode="json")


def test_comparison_json_holds_every_plan_whole(gptq: Plan, rtn: Plan) -> None:
    record = json.loads(json_.render_all([gptq, rtn]))
    assert record["schema_version"] == 3
    assert [Plan.model_validate(each) for each in record["plans"]] == [gptq, rtn]


def test_every_markdown_row_has_as_many_cells_as_the_head(gptq: Plan) -> None:
    lines = [line for line in markdown.render(gptq).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(rows(gptq))


def test_markdown_escapes_what_would_break_a_table(gptq: Plan) -> None:
    text = markdown.render(planned(gptq, step("a|b")))
    assert "| a\\|b |" in text


# comparing


def test_a_comparison_has_a_row_per_recipe(gptq: Plan, rtn: Plan) -> None:
    text = compare.render([rtn, gptq], width=100)
    assert text.index("rtn_fp8_dynamic  yes   0.11") < text.index("gptq_w4a16       yes   3.77")
    assert "gptq_w4a16: compress of model.layers.0, set by workspace (67 %)" in text
    assert "gptq_w4a16 needs 32.9 times the GPU memory of rtn_fp8_dynamic." in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_comparison_says_who_does_not_fit(gptq: Plan, rtn: Plan) -> None:
    plans = [with_memory(plan, 2 * GIB) for plan in (rtn, gptq)]
    assert "DOES NOT FIT: gptq_w4a16: it takes more than 2 GiB." in compare.render(plans)
    assert "DOES NOT FIT: gptq_w4a16: it takes more than 2 GiB." in compare.render_markdown(plans)


def test_a_comparison_says_what_is_missing_of_a_machine(gptq: Plan) -> None:
    lacking = demand("RAM", 30 * GIB, 28 * GIB, 24 * GIB, "resident")
    plan = gptq.model_copy(update={"demands": (lacking,), "fits": "no"})
    assert "DOES NOT FIT: gptq_w4a16: 4.000 GiB of RAM missing." in compare.render([plan])


def test_a_comparison_says_which_job_the_library_would_not_finish(gptq: Plan) -> None:
    note = Note(kind="fails", text="It stops at the vision tower.")
    plan = gptq.model_copy(update={"notes": (note,), "fits": "no"})
    assert "LLM Compressor itself would not finish it (It stops at the vision tower)." in compare.render([plan])


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


# the graph


@pytest.fixture
def toy_graph() -> ModelGraph:
    def unit(name: str, kind: str, structure: int, count: int, linears: int) -> Unit:
        return Unit(
            name=name,
            kind=kind,
            structure=structure,
            class_name=f"Toy{kind.title()}WithALongName",
            parameters=count,
            bytes=2 * count,
            linears=linears,
            onload="own-subgraph" if kind == "decoder" else "head",
        )

    layers = [
        unit(f"model.language_model.layers.{n}", "decoder", 1 if n < 3 else 2, GIB * (1 + n // 3), 7) for n in range(8)
    ]
    units = (unit("model.embed_tokens", "embedding", 0, GIB, 0), *layers)
    total = sum(each.parameters for each in units)
    facts = {"name": "toy", "architecture": "Toy", "parameters": total, "bytes": 2 * total}
    notes = (Note(kind="model", text="a note"),)
    edges = (Edge(source="a", target="b", tensors=(("hidden_states", 64),)),)
    return SimpleNamespace(**facts, not_loaded_parameters=5, notes=notes, units=units, edges=edges)  # type: ignore[return-value]


@pytest.mark.parametrize("width", [80, 100, None])
def test_the_graph_has_a_line_per_distinct_unit(toy_graph: ModelGraph, width: int | None) -> None:
    text = graph.render(toy_graph, width=width)
    units = [line for line in text.splitlines() if "Toy" in line and "model  " not in line]
    assert len(units) == 3
    assert any("layers.0-2" in line and " 3 " in line for line in units)
    assert any("layers.3-7" in line and " 5 " in line for line in units)
    assert width is None or max(map(len, text.splitlines())) <= width
    assert "notes     a note" in text


def test_the_graph_in_json_holds_every_unit(toy_graph: ModelGraph) -> None:
    record = json.loads(graph.render_json(toy_graph))
    assert record["parameters"] == sum(unit["parameters"] for unit in record["units"])
    assert len(record["units"]) == 9
    assert record["edges"] == [{"source": "a", "target": "b", "tensors": [{"name": "hidden_states", "bytes": 64}]}]


def test_the_graph_in_markdown(toy_graph: ModelGraph) -> None:
    assert "| model.language_model.layers.3-7 | 5 | decoder |" in graph.render_markdown(toy_graph)
