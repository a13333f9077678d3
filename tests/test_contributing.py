"""CONTRIBUTING.md names what there is: files, modules to run, targets of make."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_file_and_folder_that_it_names_exists() -> None:
    named = set(re.findall(r"`((?:planner|tests|docs|recipes)/[\w./-]*)`", TEXT))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_module_that_it_runs_exists() -> None:
    modules = set(re.findall(r"python -m (tests[\w.]+)", TEXT)) | set(re.findall(r"`(tests\.[\w.]+)`", TEXT))
    assert len(modules) >= 5
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


def test_every_target_of_make_that_it_names_exists() -> None:
    targets = re.findall(r"\bmake (test|check|docs|demo|fuzz|clean)\b", TEXT)
    assert {"test", "check", "docs"} <= set(targets)
    made = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(targets) <= set(made)


def test_it_says_how_each_thing_that_people_add_is_added() -> None:
    for thing in ("modifier", "card", "architecture", "preset", "recipe"):
        assert re.search(rf"^\*\*An? {thing}\*\* ", TEXT, re.MULTILINE), thing
