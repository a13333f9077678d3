"""How records show themselves at a prompt and in a notebook."""

import gc
import json
from typing import Any

import pytest

import planner
from planner.compress.schema import Plan
from planner.models.graph import ModelGraph
from planner.notes import Note
from planner.pictures import notebook
from planner.reports.advice import advice_line
from planner.reports.summary import answer
from planner.units import human_bytes
from tests import toys
from tests.toys import Layer, Linear, Toy


@pytest.fixture
def graph() -> ModelGraph:
    layer = Layer(linears=(Linear(name=".q_proj", rows=300, columns=200),))
    return Toy(kinds=(layer,), order=(0, 0), tokens=40).graph


@pytest.fixture
def plan(graph: ModelGraph) -> Plan:
    return planner.plan(graph, toys.recipe(toys.gptq()), graph.job)


def read_again(plan: Plan) -> Plan:
    return Plan.model_validate_json(plan.model_dump_json())


def test_a_plan_says_at_a_prompt_its_verdict_and_its_peaks_in_a_few_lines(plan: Plan) -> None:
    again = read_again(plan)
    for each, text in ((plan, repr(plan)), (plan, str(plan)), (again, repr(again))):
        assert len(text.splitlines()) <= 5
        assert len(text) < 600
        for words in (plan.model.name, plan.recipe, answer(each)[0], "GPU", "CPU"):
            assert words in text


def test_a_notebook_shows_the_charts_of_a_plan(plan: Plan) -> None:
    page = plan._repr_html_()
    assert page is not None
    assert "plannerReport" in page
    assert "uPlot" in page


def test_a_plan_from_a_file_shows_a_table_without_script(plan: Plan) -> None:
    again = read_again(plan)
    table = again._repr_html_()
    assert table is not None
    assert "<table>" in table
    assert answer(again)[0] in table
    assert "<script" not in table


def test_a_plan_that_counts_requests_alone_shows_a_table(graph: ModelGraph) -> None:
    table = planner.plan(graph, toys.recipe(toys.gptq()), graph.job, on_card=False)._repr_html_() or ""
    assert "<table>" in table
    assert "<script" not in table


def test_what_a_plan_is_called_cannot_break_a_notebooks_page(plan: Plan) -> None:
    odd = plan.model_copy(update={"recipe": "<script>alert(1)</script>"})
    assert "<script>alert" not in (odd._repr_html_() or "")


def test_a_plan_is_as_it_was_read_from_its_json(plan: Plan) -> None:
    assert read_again(plan) == plan
    assert set(json.loads(plan.model_dump_json())) == set(Plan.model_fields)


def test_a_plan_answers_in_sentences_and_in_fields(plan: Plan) -> None:
    assert plan.answer.splitlines() == answer(plan)
    assert plan.advice == advice_line(plan)
    assert plan.gpu.peak == human_bytes(plan.gpu.peak_bytes)
    assert plan.cpu.peak == human_bytes(plan.cpu.peak_bytes)


def test_dir_of_a_plan_has_what_a_person_wants_and_nothing_of_pydantics(plan: Plan) -> None:
    names = dir(plan)
    assert {*Plan.model_fields, "answer", "advice", "model_dump_json"} == set(names) - {"model_copy", "model_dump"}
    assert all(hasattr(plan, name) for name in names)


def test_the_graph_of_a_plan_is_forgotten_with_the_plan(graph: ModelGraph) -> None:
    before = len(notebook._drawers)
    plan = planner.plan(graph, toys.recipe(toys.gptq()), graph.job)
    assert len(notebook._drawers) == before + 1
    del plan
    gc.collect()
    assert len(notebook._drawers) == before


def test_compare_gives_plans_that_draw_themselves(graph: ModelGraph) -> None:
    plans = planner.compare(graph, [toys.recipe(toys.gptq()), toys.recipe(toys.rtn())], graph.job)
    assert all("plannerReport" in (each._repr_html_() or "") for each in plans)


def test_a_rule_of_thumb_shows_itself_too(graph: ModelGraph) -> None:
    plan = planner.plan(graph, toys.recipe(toys.gptq()), graph.job, method="rule-of-thumb")
    assert plan.model.name in repr(plan)
    assert plan.model.name in (plan._repr_html_() or "")


@pytest.mark.parametrize("record", [Note(kind="job", text="short"), planner.Job()])
def test_a_small_record_is_shown_whole_and_long_lists_by_their_length(record: Any, plan: Plan) -> None:
    assert type(record).__name__ in repr(record)
    assert len(repr(plan.steps[-1])) < 2_000
    many = plan.steps[0].gpu.model_copy(update={"largest": (1,) * 500})
    assert "largest=<500 entries>" in repr(many)
