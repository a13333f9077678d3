"""Checkpoints that LLM Compressor itself saved, beside what the planner says of the same config and recipe."""

import json
from functools import cache
from pathlib import Path

import pytest

from planner.compress.recipes import load_recipe
from planner.formats.compressed import store_recipe
from planner.formats.served_model import ServedModel
from planner.serving.model import load_served

SAVED = json.loads((Path(__file__).parent / "saved_checkpoints.json").read_text(encoding="utf-8"))


@cache
def small_model(folder: Path, name: str) -> ServedModel:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(SAVED["configs"][name]), encoding="utf-8")
    return load_served(str(path))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


@pytest.mark.parametrize("case", SAVED["bytes"])
def test_a_recipe_weighs_to_the_byte_what_llm_compressor_saves(case: str, folder: Path) -> None:
    model, _, recipe = case.partition("/")
    found = store_recipe(small_model(folder, model), load_recipe(SAVED["recipes"][recipe]))
    assert found.file_bytes == SAVED["bytes"][case]
