"""Settings of all tests."""

import gc
import os
from typing import Any

import pytest
from hypothesis import settings

from planner.collector import collect_seldom

# As wide as needed, whatever the terminal from which the tests are started.
os.environ.pop("COLUMNS", None)

# How long an example takes says nothing about what it tests; in CI the examples are the same each time.
settings.register_profile("planner", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("planner")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadgroup`, our own groups."""
    from tests.scheduling import GroupScheduling

    return GroupScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look at it after every test.

    It looks as seldom as in the command itself, too: a tenth to a third of the suite's time.
    """
    gc.collect()
    gc.freeze()
    collect_seldom()
