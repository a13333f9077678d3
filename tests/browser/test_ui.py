"""The page of `planner ui` in a real browser, served by the real command: what a person clicks, types and sees."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from planner.ui.stops import beside, cards
from tests.browser.conftest import OpenPage
from tests.ui.fakes import CONFIG

SMALL = {"model": "qwen3-0.6b", "recipe": "rtn_w4a16"}
DRAWN = "body[data-picture-ms]"
PLANNED = 'body[data-state="done"]'
FAILED = 'body[data-state="failed"]'


@pytest.fixture(scope="module")
def server(chromium: Any) -> Iterator[str]:
    """The address of a running `planner ui`."""
    command = [sys.executable, "-m", "planner", "ui", "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        yield address[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


@pytest.fixture
def page(server: str, open_page: OpenPage) -> Any:
    """The page with a plan of a small model."""
    return drawn(open_page(at(server)))


def at(server: str, **form: object) -> str:
    return f"{server}?{urlencode({**SMALL, **form})}"


def drawn(page: Any) -> Any:
    """The page, once it has a plan and its charts."""
    page.wait_for_selector(DRAWN)
    return page


def planned(page: Any) -> Any:
    """The page, once it has all that it asked for."""
    page.wait_for_selector(PLANNED)
    return page


def badge(page: Any) -> str:
    return str(page.locator("#badge").text_content())


def command(page: Any) -> str:
    return str(page.locator("#command").text_content())


def test_the_page_plans_as_soon_as_it_is_open(page: Any) -> None:
    assert badge(planned(page)) == "Fits"
    assert "to spare" in page.locator("#answer").text_content()
    assert page.locator("#chart canvas").first.is_visible()
    assert page.locator("#ways tbody tr").count() > 2
    assert page.locator("#bars li").count() == 3
    assert "oneshot(" in page.locator("#python").text_content()
    assert command(page) == "planner plan qwen3-0.6b -r rtn_w4a16 --gpu 'RTX 4090' --ram 64GiB"
    page.get_by_role("button", name="Copy").last.click()
    assert page.evaluate("navigator.clipboard.readText()") == command(page)


def test_the_keyboard_moves_a_slider_and_verdict_and_address_follow(page: Any) -> None:
    before = page.url
    page.focus("#ram-slider")
    page.keyboard.press("End")
    page.wait_for_function("() => document.querySelector('#command').textContent.includes('4096GiB')")
    assert page.input_value("#ram") == "4096"
    assert page.get_attribute("#ram-slider", "aria-valuetext") == "4096 GiB"
    assert "ram=4096" in page.url
    page.go_back()
    page.wait_for_function("() => document.querySelector('#command').textContent.includes('64GiB')")
    assert (page.url, page.input_value("#ram")) == (before, "64")
    page.go_forward()
    page.wait_for_function("() => document.querySelector('#command').textContent.includes('4096GiB')")


def test_a_slider_stops_where_the_server_plans_ahead(page: Any) -> None:
    for field in ("samples", "seq_len", "batch_size", "ram"):
        for key, side in (("ArrowLeft", 0), ("ArrowRight", 1)):
            before = float(page.input_value(f"#{field}"))
            page.focus(f"#{field}-slider")
            page.keyboard.press(key)
            assert float(page.input_value(f"#{field}")) == (beside(field, before)[side] or before), (field, key)
    listed = page.locator("#gpu option").evaluate_all("each => each.map(option => option.value)")
    assert listed == [*(card.name for card in cards()), "size"]


def test_the_mouse_drags_a_slider_and_the_last_place_is_what_is_planned(page: Any) -> None:
    box = page.locator("#samples-slider").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for part in (0.6, 0.9, 0.3, 0.7, 0.1):
        page.mouse.move(box["x"] + box["width"] * part, middle, steps=4)
    page.mouse.up()
    last = page.input_value("#samples")
    assert last != "512"
    page.wait_for_function(f"() => document.querySelector('#command').textContent.includes('--samples {last} ')")
    assert f"samples={last}" in page.url


def test_where_it_does_not_fit_the_verdict_offers_a_way_that_does(server: str, open_page: OpenPage) -> None:
    page = planned(open_page(at(server, weights="gpu", gpu="1.4GiB")))
    assert badge(page) == "Does not fit"
    assert "It fits this way: weights on the CPU" in page.locator("#way").text_content()
    page.get_by_role("button", name="Use it").click()
    page.wait_for_function("() => document.querySelector('#badge').textContent.startsWith('Fits')")
    assert page.locator("#way").is_hidden()


def test_too_small_a_card_does_not_fit_and_says_by_how_much(page: Any) -> None:
    page.select_option("#gpu", "size")
    page.fill("#size", "0.6")
    page.press("#size", "Enter")
    page.wait_for_function("() => document.querySelector('#badge').textContent === 'Does not fit'")
    assert "of GPU missing" in page.locator("#answer").text_content()
    assert page.get_attribute("#bars li", "data-outcome") == "over"


def test_bad_input_says_what_is_wrong_and_the_last_plan_stays_dimmed(page: Any) -> None:
    shown = command(page)
    page.fill("#samples", "0")
    page.wait_for_selector(FAILED)
    assert page.get_by_role("alert").text_content() == "Samples: write a number above 0"
    assert page.get_attribute("#samples", "aria-invalid") == "true"
    assert (badge(page), command(page)) == ("Cannot be planned", shown)
    page.wait_for_function("() => Number(getComputedStyle(document.querySelector('#results')).opacity) < 0.5")
    page.fill("#samples", "64")
    page.wait_for_function("() => document.querySelector('#command').textContent.includes('--samples 64')")
    assert page.get_by_role("alert").count() == 0
    assert page.get_attribute("#samples", "aria-invalid") is None


def test_what_the_server_refuses_is_said_as_text_and_never_run(page: Any) -> None:
    page.fill("#model", "<img src=x onerror=document.title='run'>")
    page.press("#model", "Enter")
    page.wait_for_selector(FAILED)
    assert "is not a preset, and not a Hub id" in page.get_by_role("alert").text_content()
    assert page.title().startswith("Cannot be planned: <img")
    page.fill("#model", "/etc/passwd")
    page.press("#model", "Enter")
    page.wait_for_function("() => document.querySelector('#error').textContent.includes('/etc/passwd')")
    assert "root:" not in page.locator("body").text_content()


def test_a_model_is_found_by_typing_a_part_of_its_name(page: Any) -> None:
    page.click("#model")
    assert page.locator("#models [role=option]").count() > 10
    page.fill("#model", "qwen3-0")
    assert page.locator("#models [role=option]").count() == 1
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#model", "aria-activedescendant") == "model-0"
    page.keyboard.press("Enter")
    assert page.input_value("#model") == "qwen3-0.6b"
    assert page.get_by_role("listbox").count() == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert page.get_by_role("listbox").count() == 0


def test_a_pasted_config_and_recipe_are_planned_and_a_link_carries_them(
    page: Any, open_page: OpenPage, server: str
) -> None:
    page.click("#config-box summary")
    page.fill("#config", json.dumps(CONFIG))
    page.click("#yaml-box summary")
    page.fill("#yaml", "a_stage:\n  b_modifiers:\n    QuantizationModifier: {targets: [Linear], scheme: FP8_DYNAMIC}\n")
    page.locator("#yaml").blur()
    page.wait_for_function(
        "() => document.querySelector('#command').textContent.includes('config.json -r recipe.yaml')"
    )
    other = drawn(open_page(page.url))
    assert command(other) == command(page)
    other.fill("#config", '{"model_type": "llama"')
    other.locator("#config").blur()
    other.wait_for_selector(FAILED)
    assert "config.json: not JSON" in other.get_by_role("alert").text_content()


def test_a_link_to_a_long_pasted_text_says_that_it_is_not_here(server: str, open_page: OpenPage) -> None:
    page = open_page(at(server, config="@here"))
    page.wait_for_selector(FAILED)
    assert "paste it again" in page.get_by_role("alert").text_content()
    page.fill("#config", json.dumps(CONFIG))
    page.wait_for_function("() => document.querySelector('#command').textContent.includes('planner plan config.json')")


def test_a_strategy_is_used_by_a_click_and_taken_back_by_another(page: Any) -> None:
    page.get_by_role("button", name="Use weights on the GPU").click()
    page.wait_for_function("() => document.querySelector('#command').textContent.includes('--weights gpu')")
    assert page.locator("input[name=weights][value=gpu]").is_checked()
    page.go_back()
    page.wait_for_function("() => !document.querySelector('#command').textContent.includes('--weights')")
    assert page.locator("input[name=weights][value=cpu]").is_checked()


def test_a_link_restores_every_field(server: str, open_page: OpenPage) -> None:
    changes = {"targets_per_subgraph": 2}
    form = {"gpu": "24GiB", "samples": 48, "seq_len": 768, "batch_size": 3, "ram": 100, "disk": 50}
    page = drawn(open_page(at(server, **form, offload_device="gpu", **{"with": json.dumps(changes)})))
    for name in ("samples", "seq_len", "batch_size", "ram", "disk"):
        assert page.input_value(f"#{name}") == str(form[name])
    assert (page.input_value("#gpu"), page.input_value("#size")) == ("size", "24")
    assert "--targets-per-subgraph 2" in command(page)
    page.get_by_role("button", name="Without targets per subgraph: 2").click()
    page.wait_for_function("() => !document.querySelector('#command').textContent.includes('--targets')")


def test_a_narrow_and_a_wide_window_show_all_of_it(page: Any) -> None:
    for width in (360, 390, 800, 2560):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        edges = """() => [...document.querySelectorAll('#form :is(input, select, button)')].filter(each =>
            each.checkVisibility()).map(each => each.getBoundingClientRect()).flatMap(box => [box.left, box.right])"""
        assert all(0 <= edge <= width for edge in page.evaluate(edges)), width
        page.mouse.wheel(0, 1500)
        page.wait_for_timeout(100)
        assert page.locator("#badge").bounding_box()["y"] >= 0, "the verdict stays in view"
        page.mouse.wheel(0, -3000)


def test_colours_are_the_readers(page: Any) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(22, 24, 28)"]


def test_every_control_has_a_name_and_the_keyboard_reaches_the_results(page: Any) -> None:
    nameless = """() => [...document.querySelectorAll('main :is(input, select, textarea, button)')].filter(each =>
        !(each.labels?.length || each.getAttribute('aria-label') || each.textContent.trim())).map(each => each.id)"""
    assert page.evaluate(nameless) == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the verdict"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "verdict"
    assert page.locator("[aria-live=polite]").first.is_visible()


def test_the_pictures_of_the_docs(server: str, open_page: OpenPage, screenshots: Path) -> None:
    page = planned(open_page(f"{server}?gpu=16GiB&ram=32&weights=gpu", width=1180, height=740))
    page.screenshot(path=screenshots / "ui.png")


def test_a_way_that_changes_nothing_becomes_a_sentence(page: Any) -> None:
    planned(page)
    name = "weights in RAM as far as they go, the others on the disk"
    assert page.locator("#idle").is_visible()
    assert name in str(page.locator("#idle").text_content())
    assert page.locator("#ways tbody th", has_text=name).count() == 0
