"""A plan in a notebook's cell, as a browser shows it."""

from pathlib import Path

import planner
from planner.models.graph import ModelGraph
from planner.pictures.exports import exported
from planner.recipe.specs import Recipe
from tests import toys
from tests.browser.conftest import OpenPage
from tests.toys import Layer, Linear, Toy

CELL = "<!doctype html><meta charset='utf-8'><body style='margin:16px;width:960px'>{}"


def toy() -> tuple[ModelGraph, Recipe]:
    layer = Layer(linears=(Linear(name=".q_proj", rows=300, columns=200),))
    return Toy(kinds=(layer,), order=(0, 0), tokens=40).graph, toys.recipe(toys.gptq())


def test_two_plans_in_one_notebook_draw_their_charts_without_network(open_page: OpenPage, tmp_path: Path) -> None:
    graph, recipe = toy()
    cells = [planner.plan(graph, recipe, graph.job)._repr_html_() or "" for _ in range(2)]
    path = tmp_path / "notebook.html"
    path.write_text(CELL.format("<hr>".join(cells)), encoding="utf-8")
    page = open_page(path.as_uri())
    page.wait_for_selector(".planner-report canvas")
    assert page.locator(".planner-report").count() == 2
    for report in page.locator(".planner-report").all():
        assert report.locator("canvas").count() >= 2
        assert "toy" in report.inner_text()


def test_pictures_of_a_cell_and_a_slide_for_the_docs(open_page: OpenPage, screenshots: Path, tmp_path: Path) -> None:
    job = planner.Job(gpu="l4")
    cell = tmp_path / "cell.html"
    found = planner.plan("llama-3-8b", "gptq_w4a16", job)
    cell.write_text(CELL.format(found._repr_html_()), encoding="utf-8")
    page = open_page(cell.as_uri(), width=992, height=1000)
    page.wait_for_selector(".planner-report canvas")
    page.screenshot(path=str(screenshots / "notebook.png"))
    _, slide = exported("llama-3-8b", planner.load_recipe("gptq_w4a16"), job, "png")
    (screenshots / "slide.png").write_bytes(slide)
