"""Reads recipes: `planner.recipe` reads the file, `planner.compress.modifiers` knows the modifiers in it."""

from pathlib import Path
from typing import Any

from planner.compress.modifiers import MODIFIERS
from planner.recipe.changes import Changes
from planner.recipe.load import Readers, read_mapping, read_recipe
from planner.recipe.specs import Recipe


def load_recipe(text: str | Path, changes: Changes | None = None) -> Recipe:
    """The recipe that a shipped name (`gptq_w4a16`), a path, or recipe text of several lines stands for.

    `changes`: values of its modifiers' fields, by `Modifier.field`, instead of its own.

    Raises RecipeError where LLM Compressor would refuse it, UnsupportedError where planner cannot follow.
    """
    return read_recipe(text, _readers(), changes)


def recipe_from_dict(data: dict[str, Any], name: str) -> Recipe:
    """The records for a recipe that is already a mapping; `name` is its name in errors and plans."""
    return read_mapping(data, name, _readers())


def _readers() -> Readers:
    return {name: spec.read for name, spec in MODIFIERS.items()}
