"""A headless Chromium for the tests of the pages; where there is none, they are skipped and say so."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SKIPPED = "no {}: the pages are not tested in a browser (apt-get install chromium; pip install playwright)"


class OpenPage(Protocol):
    """Opens an address in a window of its own."""

    def __call__(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        """The page; what it complains of fails the test."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser. CHROMIUM names another one than the path has.

    Started for each file: while Playwright runs, its event loop does, and tests elsewhere could begin none.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason=SKIPPED.format("playwright"))
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as started:
        own = started.chromium.executable_path
        if path is None and not Path(own).exists():
            pytest.skip(SKIPPED.format("Chromium"))
        browser = started.chromium.launch(executable_path=path or own, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[OpenPage]:
    """Opens pages. At the end of the test none may have complained, or asked anything of another host."""
    complaints: list[str] = []
    contexts = []

    def open_one(url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page, host = context.new_page(), urlsplit(url).netloc
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: complaints.append(asked.url) if _is_elsewhere(asked.url, host) else None)
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not complaints


def _is_elsewhere(url: str, host: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.netloc != host


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="FOLDER", help="write the pictures of docs/images there")


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """Where pictures for the docs go; skips a test that only makes them."""
    folder = request.config.getoption("--screenshots")
    if folder is None:
        pytest.skip("makes pictures for docs/images: --screenshots docs/images")
    return Path(folder)
