"""The real LLM Compressor reads every shipped recipe, and means by it what planner means. Opt-in.

Set PLANNER_LLMCOMPRESSOR_PYTHON to the python of an environment with llmcompressor 0.14.0.1. With
PLANNER_RECORD=1 as well, what it says is written to tests/data/recipes/resolved.json.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from planner.compress.recipes import load_recipe
from planner.recipe.files import list_recipes
from planner.recipe.specs import ModuleRef
from planner.upstream import LLMCOMPRESSOR_VERSION

DATA = Path(__file__).parent.parent / "data" / "recipes"
PYTHON = os.environ.get("PLANNER_LLMCOMPRESSOR_PYTHON", "")

pytestmark = [
    pytest.mark.llmcompressor,
    pytest.mark.skipif(
        not PYTHON,
        reason="PLANNER_LLMCOMPRESSOR_PYTHON names no python with llmcompressor 0.14.0.1",
    ),
]


def ask(script: str, out: Path, *arguments: object) -> Any:
    command = [PYTHON, str(DATA / script), str(out), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_it_is_the_version_that_plans_are_for() -> None:
    code = "import importlib.metadata as m; print(m.version('llmcompressor'))"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == LLMCOMPRESSOR_VERSION, done.stderr


def test_it_loads_every_shipped_recipe_and_resolves_all_as_recorded(tmp_path: Path) -> None:
    """test_recipe.py compares planner with the record, so planner and library agree."""
    recipes = [info.path for info in list_recipes()] + sorted(DATA.glob("*.yaml"))
    found = ask("dump.py", tmp_path / "resolved.json", *recipes)
    if os.environ.get("PLANNER_RECORD"):
        (DATA / "resolved.json").write_text((tmp_path / "resolved.json").read_text())
    assert found == json.loads((DATA / "resolved.json").read_text())
    assert {info.name for info in list_recipes()} <= found["recipes"].keys()


def test_its_modifiers_take_the_modules_that_planner_says(tmp_path: Path) -> None:
    found = ask("targets.py", tmp_path / "targets.json", DATA / "targets.yaml")
    modules = tiny_modules()
    for spec, theirs in zip(load_recipe(str(DATA / "targets.yaml")).modifiers, found, strict=True):
        weights = spec.select(modules).weights
        if isinstance(theirs, list):  # what SparseGPT prunes
            assert list(weights) == theirs
        else:
            ours = {name: group.weights.num_bits for name, group in weights.items() if group and group.weights}
            assert ours == theirs


def tiny_modules() -> list[ModuleRef]:
    """The model of targets.py, built from the same code."""
    source = (DATA / "targets.py").read_text()
    names: dict[str, Any] = {}
    start = source.index("def tiny_model")
    imports = "from transformers import AutoConfig, AutoModelForCausalLM\n"
    exec(imports + source[start : source.index("def taken")], names)  # noqa: S102 - our own file, read above
    named = names["tiny_model"]().named_modules()
    return [ModuleRef(name, tuple(cls.__name__ for cls in type(module).__mro__)) for name, module in named]
