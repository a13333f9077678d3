"""A plan as JSON and markdown; several plans; a graph."""

import json
from types import SimpleNamespace

import pytest

from planner.compress.schema import Plan
from planner.hardware.demand import demand
from planner.models.graph import Edge, ModelGraph, Unit, UnitKind
from planner.notes import Note
from planner.reports import compare, graph, json_, markdown
from planner.reports.forms import as_json
from planner.reports.rows import rows
from planner.units import GIB
from tests.reports.records import planned, step, with_memory

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
    assert "on any machine: It stops at the vision tower." in compare.render([plan])


# the graph


@pytest.fixture
def toy_graph() -> ModelGraph:
    def unit(name: str, kind: UnitKind, structure: int, count: int, linears: int) -> Unit:
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
    facts = {"name": "toy", "architecture": "Toy", "parameters": total, "bytes": 2 * total, "not_loaded_parameters": 5}
    notes = (Note(kind="model", text="a note"),)
    edges = (Edge(source="a", target="b", tensors=(("hidden_states", 64),)),)
    parts = {"notes": notes, "units": units, "edges": edges}
    return SimpleNamespace(**facts, **parts)  # type: ignore[return-value]  # a stub that has only what render reads


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
