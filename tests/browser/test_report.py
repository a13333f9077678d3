"""The page of `planner report` in a real browser: clicks, keys, a narrow window, dark, paper."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan
from planner.hardware.machine import Machine
from planner.job import Job
from planner.pictures.make import on_machine, picture_of
from planner.pictures.page import fragment
from planner.pictures.page import page as written
from planner.pictures.schema import Pictured
from planner.planning import sized_plan
from planner.sizing.demands import judged
from tests.browser.conftest import OpenPage
from tests.built import graph_of

HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def plans(chromium: Any) -> list[Pictured]:
    """Two plans of a small model, the second with a name that is markup."""
    job, found = Job(layers=3, samples=6, seq_len=128), []
    graph = graph_of("qwen3-0.6b", job)
    for name in ("gptq_w4a16", "rtn_fp8_dynamic"):
        recipe = load_recipe(name)
        plan = sized_plan(graph, recipe, job)
        picture = picture_of(graph, recipe, plan)
        assert picture is not None
        found.append(Pictured(plan, on_machine(picture, plan), "qwen3-0.6b"))
    second = found[1]
    return [found[0], second._replace(plan=second.plan.model_copy(update={"recipe": HOSTILE}))]


@pytest.fixture(scope="module")
def address(plans: list[Pictured], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report as a file."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(written(plans, "two plans"), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def page(address: str, open_page: OpenPage) -> Iterator[Any]:
    yield drawn(open_page(address))


def drawn(page: Any) -> Any:
    page.wait_for_selector(".pr-chart .u-over")
    page.wait_for_function("document.querySelector('.pr-ribbon').childElementCount > 0")
    return page


def moment(page: Any, device: str = "gpu") -> str:
    return str(page.locator(f'[data-device="{device}"] [role=slider]').get_attribute("aria-valuetext"))


def gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:,.2f} GiB"


def test_it_begins_with_the_verdict_and_the_moment_of_the_peak(page: Any, plans: list[Pictured]) -> None:
    plan = plans[0].plan
    assert page.locator(".pr-answer").inner_text().lower().startswith("fits")
    assert moment(page).startswith(f"step {plan.gpu.peak_step},")
    assert gib(plan.gpu.peak_bytes) in moment(page)
    assert page.locator(".pr-alive tbody tr").count() > 3


def test_a_click_shows_what_is_alive_there(page: Any) -> None:
    before = page.locator(".pr-alive p").first.inner_text()
    page.locator('[data-device="cpu"] .u-over').click(position={"x": 30, "y": 30})
    after = page.locator(".pr-alive p").first.inner_text()
    assert "CPU (RAM) memory" in after
    assert after != before


def test_a_double_click_opens_a_step_down_to_its_allocations(page: Any) -> None:
    page.locator('[data-device="gpu"] .u-over').dblclick(position={"x": 200, "y": 40})
    assert page.locator(".pr-path [aria-current]").count() == 1
    assert page.locator(".pr-life").count() > 3
    page.locator(".pr-life").first.click()
    assert page.locator(".pr-alive tbody tr").count() > 0


def test_dragging_zooms_and_the_first_button_shows_all_again(page: Any) -> None:
    box = page.locator('[data-device="gpu"] .u-over').bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 700, box["y"] + 50, steps=5)
    page.mouse.up()
    assert "steps" in page.locator(".pr-path [aria-current]").inner_text()
    page.locator(".pr-path button").click()
    assert page.locator(".pr-path [aria-current]").count() == 0


def test_the_keyboard_moves_the_moment_and_zooms_in_and_out(page: Any, plans: list[Pictured]) -> None:
    slider = page.locator('[data-device="gpu"] [role=slider]')
    slider.focus()
    page.keyboard.press("Shift+ArrowLeft")
    assert moment(page).startswith(f"step {plans[0].plan.gpu.peak_step - 1},")
    page.keyboard.press("p")
    assert moment(page).startswith(f"step {plans[0].plan.gpu.peak_step},")
    page.keyboard.press("Enter")
    assert page.locator(".pr-life").count() > 3
    at_peak = slider.get_attribute("aria-valuenow")
    page.keyboard.press("ArrowRight")
    assert float(slider.get_attribute("aria-valuenow")) > float(at_peak)
    page.keyboard.press("+")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.locator(".pr-path [aria-current]").count() == 0
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"


def test_tab_reaches_the_charts_and_shows_where_it_is(page: Any) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "slider":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline not in ("none", "")


def test_another_plan_is_chosen_and_its_name_stays_text(page: Any) -> None:
    page.locator(".pr-side button", has_text="onerror").click()
    assert HOSTILE in page.locator(".pr-head p").inner_text() + page.locator(".pr-side").inner_text()
    assert page.title() == "two plans"
    assert page.locator(".pr-side [aria-pressed=true]").inner_text() == HOSTILE


def test_the_plan_is_downloaded_as_json(page: Any, plans: list[Pictured]) -> None:
    with page.expect_download() as started:
        page.get_by_label("download the plan as JSON").click()
    found = json.loads(Path(started.value.path()).read_text())
    assert [Plan.model_validate(each) for each in found] == [each.plan for each in plans]


def test_the_call_of_the_library_is_copied(page: Any) -> None:
    page.locator(".pr-copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("planner plan qwen3-0.6b -r gptq_w4a16")


@pytest.mark.parametrize("width", [360, 390, 768, 2560])
def test_nothing_is_wider_than_the_window(width: int, address: str, open_page: OpenPage) -> None:
    page = drawn(open_page(address, width=width, height=800))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator('[data-device="gpu"] [role=slider]').focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_is_dark_where_the_reader_wants_it_and_the_switch_makes_it_light(address: str, open_page: OpenPage) -> None:
    page = drawn(open_page(address, dark=True))
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_label("light or dark").click()
    light = page.evaluate(ground)
    assert (dark, light) == ("rgb(22, 24, 28)", "rgb(255, 255, 255)")


def test_drawing_again_keeps_plan_zoom_and_moment(page: Any) -> None:
    page.locator('[data-device="gpu"] [role=slider]').focus()
    page.keyboard.press("Enter")
    before = page.locator(".pr-path").inner_text(), moment(page)
    page.evaluate(
        "plannerReport.unpack(document.getElementById('planner-data').textContent)"
        ".then(data => plannerReport(document.getElementById('planner-report'), data))"
    )
    drawn(page)
    page.wait_for_timeout(100)
    assert (page.locator(".pr-path").inner_text(), moment(page)) == before


def test_on_paper_it_is_light_and_without_buttons(address: str, open_page: OpenPage, tmp_path: Path) -> None:
    page = drawn(open_page(address, dark=True))
    page.emulate_media(media="print")
    assert page.locator(".pr-tools").is_hidden()
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_the_picture_for_the_docs(open_page: OpenPage, screenshots: Path, tmp_path: Path) -> None:
    job, recipe = Job(), load_recipe("gptq_w4a16")
    graph = graph_of("llama-3-8b", job)
    plan = sized_plan(graph, recipe, job)
    picture = picture_of(graph, recipe, plan)
    assert picture is not None
    file = tmp_path / "report.html"
    file.write_text(written([Pictured(plan, on_machine(picture, plan), "llama-3-8b")], "llama-3-8b"), encoding="utf-8")
    page = drawn(open_page(file.as_uri(), width=1100, height=1240))
    page.screenshot(path=screenshots / "report.png")


def test_two_cells_of_a_notebook_draw_themselves(plans: list[Pictured], open_page: OpenPage, tmp_path: Path) -> None:
    file = tmp_path / "notebook.html"
    cells = (f"<div>{fragment([each], 'cell')}</div>" for each in plans)
    file.write_text(f"<!doctype html><meta charset=utf-8>{''.join(cells)}", encoding="utf-8")
    page = open_page(file.as_uri())
    page.wait_for_function("document.querySelectorAll('.pr-chart .u-over').length === 4")
    assert page.locator(".planner-report h1").count() == 2


def test_a_second_gpu_says_what_it_is_for_and_how_many_are_missing(open_page: OpenPage, tmp_path: Path) -> None:
    job = Job(layers=2, samples=2, seq_len=64, offload_device="gpu:1")
    graph, recipe = graph_of("qwen3-0.6b", job), load_recipe("gptq_w4a16")
    few = Machine(gpu_memory_bytes=job.gpu_memory_bytes, ram_bytes=2**36, gpus=3, source="a test")
    plan = judged(sized_plan(graph, recipe, job).model_copy(update={"other_gpus": 3}), few)
    (tmp_path / "one.html").write_text(written([Pictured(plan, None, "qwen3-0.6b")], "one"), encoding="utf-8")
    found = open_page((tmp_path / "one.html").as_uri())
    box = found.locator(".pr-card", has_text="second GPU, requested")
    assert "activations wait there" in box.inner_text()
    assert "3 of 4 GPUs" in found.locator(".pr-facts tr", has_text="second GPU").inner_text()
    assert "4 GPUs are needed, and the machine has 3" in found.locator(".pr-verdict").inner_text()
