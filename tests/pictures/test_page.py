"""The page: one file, small, offline, with the plans inside and no way in for what a name brings along."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest

from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan
from planner.job import Job
from planner.pictures.make import Drawer, on_machine, picture_of
from planner.pictures.make import pictured as pictured_of
from planner.pictures.page import OPENING, data_in, fragment, page, titled
from planner.pictures.schema import Picture, Pictured
from planner.planning import sized_plan
from tests import toys
from tests.built import graph_of
from tests.toys import Toy

HOSTILE = "</script><script>alert(1)</script><b>&\"'"
LIMIT = 300_000
W8A8 = {"targets": ["Linear"], "scheme": "W8A8", "ignore": ["lm_head"]}


@cache
def pictured(model: str, recipe: str) -> Pictured:
    job = Job()
    graph, chosen = graph_of(model, job), load_recipe(recipe)
    plan = sized_plan(graph, chosen, job)
    picture = picture_of(graph, chosen, plan)
    assert picture is not None
    return Pictured(plan, on_machine(picture, plan), model)


def llama() -> Pictured:
    return pictured("llama-3-8b", "gptq_w4a16")


@pytest.mark.parametrize(
    "recipes", [["gptq_w4a16"], ["rtn_w8a8_static", "gptq_w4a16", "sparsegpt_2of4"]], ids=["one", "three"]
)
def test_a_page_is_one_file_below_300_kilobytes(recipes: list[str]) -> None:
    plans = [pictured("llama-3-8b", recipe) for recipe in recipes]
    assert len(page(plans, titled(plans)).encode()) < LIMIT


def test_a_page_asks_nothing_of_a_network() -> None:
    text = page([llama()], "llama")
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|WebSocket|EventSource|importScripts)\s*\(|@import|url\(", text)
    found = set(re.findall(r"https?://[^\s\"'`)]+", text))
    assert found <= {"http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot"}


def test_the_plans_and_pictures_inside_are_records_again() -> None:
    plans = [llama(), pictured("llama-3-8b", "rtn_w8a8_static")]
    data = data_in(page(plans, "two"))
    assert [Plan.model_validate(each["plan"]) for each in data["plans"]] == [each.plan for each in plans]
    assert [Picture.model_validate(each["picture"]) for each in data["plans"]] == [each.picture for each in plans]


def test_a_page_of_somebody_else_has_no_data() -> None:
    with pytest.raises(ValueError, match="no page"):
        data_in("<html></html>")


@pytest.mark.parametrize("write", [page, fragment])
def test_what_a_name_holds_stays_text(write: Callable[[Sequence[Pictured], str], str]) -> None:
    plan, picture, *_ = llama()
    model = plan.model.model_copy(update={"name": HOSTILE})
    hostile = Pictured(plan.model_copy(update={"model": model, "recipe": HOSTILE}), picture, HOSTILE)
    harmless = page([llama()], "llama") if write is page else fragment([llama()], "llama")
    text = write([hostile], titled([hostile]))
    assert "alert(1)</script>" not in text
    assert text.count("<script") == harmless.count("<script")
    assert text.count("</script") == harmless.count("</script")
    if write is page:
        assert data_in(text)["plans"][0]["plan"]["model"]["name"] == HOSTILE


def test_a_plan_without_a_picture_has_a_page_too() -> None:
    data = data_in(page([Pictured(llama().plan, None)], "bare"))
    assert data["plans"][0]["picture"] is None
    assert data["plans"][0]["parts"]["gpu"]["weights"] == 0


def test_what_is_pasted_has_the_names_as_they_were_typed() -> None:
    words = data_in(page([llama()], "llama"))["plans"][0]["words"]
    assert words["command"].startswith("planner plan llama-3-8b -r gptq_w4a16")
    assert "oneshot(" in words["call"]


def test_a_strategys_change_of_the_recipe_is_pasted_too() -> None:
    asked = load_recipe("gptq_w4a16")
    changed = load_recipe("gptq_w4a16", {"GPTQModifier.block_size": 64})
    job = Job(layers=2, samples=2)
    graph = graph_of("qwen3-0.6b", job)
    drawer = Drawer()
    plan = sized_plan(graph, changed, job)
    drawer.draw(graph, changed, plan, asked)
    (found,) = drawer.with_pictures([plan])
    assert found.changes == {"GPTQModifier.block_size": 64}
    assert "--set GPTQModifier.block_size=64" in data_in(page([found], ""))["plans"][0]["words"]["command"]


def mapping(**modifiers: dict[str, Any]) -> dict[str, Any]:
    return {"quant_stage": {"quant_modifiers": modifiers}}


@pytest.mark.parametrize(
    "recipes",
    [
        [mapping(GPTQModifier={**W8A8, "block_size": size}) for size in (64, 128)],
        [mapping(GPTQModifier=W8A8), mapping(QuantizationModifier=W8A8)],
        [mapping(GPTQModifier=W8A8), mapping(QuantizationModifier=W8A8, GPTQModifier=W8A8)],
        [[toys.gptq(block_size=64)], [toys.gptq()]],
    ],
    ids=["fields differ", "types differ", "numbers differ", "specs"],
)
def test_of_two_recipes_with_one_name_each_is_pasted_without_changes(recipes: list[Any]) -> None:
    found = pictured_of(Toy().graph, recipes)
    assert len({each.plan.recipe for each in found}) == 1
    assert [each.changes for each in found] == [{}, {}]
    assert all("--set" not in each["words"]["command"] for each in data_in(page(found, ""))["plans"])


def test_the_same_plan_makes_the_same_page() -> None:
    assert page([llama()], "llama") == page([llama()], "llama")
    assert OPENING in page([llama()], "llama")


def test_the_chart_librarys_licence_goes_with_it() -> None:
    assert "Copyright (c) 2022 Leon Sorokin" in page([llama()], "llama")
