"""Figures come from other libraries: the package takes those that LLM Compressor takes, and no newer ones."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("PLANNER_LLMCOMPRESSOR_PYTHON", "")
SHARED = ("compressed-tensors", "torch", "transformers")


def asked(name: str, lines: list[str]) -> Requirement:
    found = [each for each in map(Requirement, lines) if each.name == name and each.marker is None]
    (one,) = found
    return one


def ours(name: str) -> Requirement:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return asked(name, project["dependencies"])


@pytest.mark.parametrize("name", SHARED)
def test_what_every_figure_was_made_with_may_be_installed(name: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (pinned,) = asked(name, [line for line in lines if line and not line.startswith("#")]).specifier
    assert ours(name).specifier.contains(pinned.version)


@pytest.mark.llmcompressor
@pytest.mark.skipif(not PYTHON, reason="PLANNER_LLMCOMPRESSOR_PYTHON names no python with llmcompressor 0.14.0.1")
@pytest.mark.parametrize("name", SHARED)
def test_the_newest_that_may_be_installed_is_of_the_release_that_the_library_takes(name: str) -> None:
    code = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('llmcompressor')))"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    theirs = asked(name, json.loads(done.stdout)).specifier
    newest = max(Version(each.version) for each in theirs if each.operator in ("<=", "=="))
    assert ours(name).specifier.contains(newest)
    assert not ours(name).specifier.contains(f"{newest.major}.{newest.minor + 1}.0")
