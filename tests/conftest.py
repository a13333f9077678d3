"""Settings of all tests, and which of them share a worker."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from planner.models.source import list_presets

# How long an example takes says nothing about what it tests; in CI the examples are the same each time.
settings.register_profile("planner", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("planner")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one model run in one worker (`pytest -n 2 --dist loadgroup`), which builds and traces it once.

    So do the tests of a file that share something made for the whole file.
    """
    models = {preset.name for preset in list_presets()}
    for item in items:
        group = next(_models(item, models), None) or _file(item)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))


def _models(item: pytest.Item, models: set[str]) -> Iterator[str]:
    """Presets among the test's parameters, or named by one of them (a measured case, a golden plan)."""
    callspec: Any = getattr(item, "callspec", None)
    for value in callspec.params.values() if callspec else ():
        model = getattr(value, "model", value)
        if isinstance(model, str) and model in models:
            yield model


def _file(item: pytest.Item) -> str | None:
    """The file of a test that asks for a fixture of module scope."""
    fixtures: Any = getattr(item, "_fixtureinfo", None)
    definitions = fixtures.name2fixturedefs.values() if fixtures else ()
    shared = any(each[-1].scope == "module" for each in definitions)
    return item.nodeid.partition("::")[0] if shared else None
