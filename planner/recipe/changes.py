"""Fields of a recipe's modifiers that are to be others than the recipe says: `--set GPTQModifier.block_size=64`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from planner.errors import RecipeError
from planner.hints import did_you_mean, shorten

Changes = Mapping[str, Any]
"""Values by `Modifier.field`."""


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """`Modifier.field=value`, the value as YAML has it. Raises RecipeError for a text of another form."""
    return dict(_parsed(text) for text in texts)


def _parsed(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    modifier, dot, field = name.strip().partition(".")
    if not (equals and dot and modifier and field):
        raise RecipeError(
            f"--set {shorten(text)}: write a modifier, a field and its value, like GPTQModifier.block_size=64"
        )
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {shorten(text)}: the value is no YAML") from None


def written(changes: Changes) -> tuple[str, ...]:
    """The texts that `parse_changes` makes these values of: JSON is YAML."""
    return tuple(f"{name}={json.dumps(value)}" for name, value in changes.items())


def changed(fields: Any, modifier: str, changes: Changes) -> Any:
    """The fields of one modifier as the recipe has them, with the values that are given for it."""
    own = {name.partition(".")[2]: value for name, value in changes.items() if name.partition(".")[0] == modifier}
    return {**fields, **own} if own and isinstance(fields, dict) else fields


def check_changes(changes: Changes, modifiers: Sequence[str], where: str) -> None:
    """Raises RecipeError for a change of a modifier that the recipe does not have."""
    for name in changes:
        modifier = name.partition(".")[0]
        if modifier not in modifiers:
            hint = did_you_mean(modifier, dict.fromkeys(modifiers)) or ";"
            raise RecipeError(f"has no {shorten(modifier)} to set{hint} it has {', '.join(modifiers)}", where)
