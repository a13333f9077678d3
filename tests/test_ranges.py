"""Figures come from other libraries: the package takes those that LLM Compressor takes, and no newer ones."""

import json
import os
import subprocess
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("PLANNER_LLMCOMPRESSOR_PYTHON", "")
SHARED = ("compressed-tensors", "torch", "transformers")


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def project() -> dict[str, Any]:
    whole: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(whole["project"])


def asked(name: str, requirements: Iterable[Requirement]) -> Requirement:
    found = [each for each in requirements if each.name == name and each.marker is None]
    (one,) = found
    return one


def ours(name: str) -> Requirement:
    return asked(name, map(Requirement, project()["dependencies"]))


@pytest.mark.parametrize("name", SHARED)
def test_what_every_figure_was_made_with_may_be_installed(name: str) -> None:
    (pinned,) = asked(name, pins()).specifier
    assert ours(name).specifier.contains(pinned.version)


@pytest.mark.parametrize("pin", pins(), ids=lambda pin: pin.name)
def test_what_is_pinned_installs_on_the_oldest_python_that_the_package_takes(pin: Requirement) -> None:
    # Debian 12 has 3.11.2, and a pin that asks for 3.11.5 leaves pip without an answer there
    try:
        takes, installed = metadata(pin.name)["Requires-Python"], version(pin.name)
    except PackageNotFoundError:
        pytest.skip("not installed on this platform")
    assert pin.specifier.contains(installed), "what is looked at is what is pinned"
    oldest = project()["requires-python"].removeprefix(">=")
    assert SpecifierSet(takes or "").contains(f"{oldest}.0")


@pytest.mark.llmcompressor
@pytest.mark.skipif(not PYTHON, reason="PLANNER_LLMCOMPRESSOR_PYTHON names no python with llmcompressor 0.14.0.1")
@pytest.mark.parametrize("name", SHARED)
def test_the_newest_that_may_be_installed_is_of_the_release_that_the_library_takes(name: str) -> None:
    code = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('llmcompressor')))"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    theirs = asked(name, map(Requirement, json.loads(done.stdout))).specifier
    newest = max(Version(each.version) for each in theirs if each.operator in ("<=", "=="))
    assert ours(name).specifier.contains(newest)
    assert not ours(name).specifier.contains(f"{newest.major}.{newest.minor + 1}.0")
