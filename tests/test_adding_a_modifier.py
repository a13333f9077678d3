"""The guide's example, followed to the letter: one file, one line in the registry, and a recipe may ask for it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding-a-modifier.md").read_text(encoding="utf-8")
FILE = "planner/compress/modifiers/channel_scale.py"
REGISTRY = "planner/compress/modifiers/__init__.py"

COLUMNS = {"q": 4096, "k": 4096, "v": 4096, "o": 4096, "gate": 4096, "up": 4096, "down": 14336}
ROWS = {"q": 4096, "k": 1024, "v": 1024, "o": 4096, "gate": 14336, "up": 14336, "down": 4096}
"""Linears of a layer of Llama-3-8B, in model order."""


def block(language: str, first_line: str) -> str:
    """The page's block of code that begins with this line, without it."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [code for code in blocks if code.startswith(first_line)]
    return found.removeprefix(first_line).lstrip("\n")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the page's file and the page's line in it."""
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "planner", root / "planner", ignore=shutil.ignore_patterns("__pycache__"))
    (root / FILE).write_text(block("python", f"# {FILE}"), encoding="utf-8")
    line = block("python", f"# {REGISTRY}")
    registry = (root / REGISTRY).read_text(encoding="utf-8")
    name = line.strip().rstrip(",")
    imported = f"from planner.compress.modifiers.{Path(FILE).stem} import {name}\n"
    first = registry.index("from planner.compress.modifiers.")
    registry = registry[:first] + imported + registry[first:]
    last = re.search(r"_SPECS.*?\n\)", registry, re.DOTALL)
    assert last
    registry = registry[: last.end() - 1] + line + registry[last.end() - 1 :]
    (root / REGISTRY).write_text(registry, encoding="utf-8")
    return root


def run(root: Path, recipe: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "planner",
        "plan",
        "llama-3-8b",
        "--recipe",
        str(recipe),
        "--layers",
        "2",
        *arguments,
    ]
    return subprocess.run(
        [*command, "--layers", "2", "--samples", "2", "--seq-len", "64"],
        capture_output=True, text=True, check=False, cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def steps(extended: Path) -> dict[str, Any]:
    """The first layer's steps by phase."""
    recipe = extended / "scale.yaml"
    recipe.write_text(block("yaml", ""), encoding="utf-8")
    done = run(extended, recipe, "--format", "json")
    assert done.returncode == 0, done.stderr
    return {s["phase"]: s for s in json.loads(done.stdout)["steps"] if s["unit"] == "model.layers.0"}


def test_while_calibrating_one_vector_a_module_is_kept(steps: dict[str, Any]) -> None:
    vectors = sum(4 * columns for columns in COLUMNS.values())
    # the forward is highest between two hooks, with all vectors of the batch before
    assert steps["calibrate"]["gpu"]["by_kind"]["observer"] == vectors
    assert steps["calibrate"]["modifier"] == "ChannelScaleModifier"


def test_while_compressing_the_widest_weight_is_there_twice(steps: dict[str, Any]) -> None:
    at_peak = steps["compress"]["gpu"]["by_kind"]
    assert at_peak["compress"] == 2 * ROWS["gate"] * COLUMNS["gate"]
    assert at_peak["observer"] == sum(4 * COLUMNS[name] for name in ("gate", "up", "down"))
    assert at_peak["weights"] >= sum(2 * ROWS[name] * COLUMNS[name] for name in COLUMNS)


def test_its_mistakes_are_one_line_with_the_path(extended: Path) -> None:
    recipe = extended / "wrong.yaml"
    recipe.write_text(block("yaml", "").replace("ignore:", "ignor:"), encoding="utf-8")
    done = run(extended, recipe)
    assert done.returncode == 2
    assert "scale_stage.scale_modifiers.ChannelScaleModifier.ignor: unknown field; did you mean ignore?" in done.stderr
