"""Recipes with hooks of transforms, and what a job with them takes."""

from collections.abc import Sequence
from typing import Any

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.recipes import load_recipe
from planner.recipe.specs import Recipe
from tests import toys
from tests.built import graph_of
from tests.compress.walked import births, with_events

SMALL: dict[str, Any] = {"layers": 2, "seq_len": 32, "samples": 2}
TOKENS, HIDDEN, HEADS, INNER = 32, 1024, 16, 3072
"""Of qwen3-0.6b, whose heads are 128 wide."""
GPTQ = "GPTQModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head]}"
STATIC = "QuantizationModifier: {targets: [Linear], scheme: FP8, ignore: [lm_head]}"
ROUNDED = "QuantizationModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head]}"


def recipe(*apply: str, block: int | None = 64, last: str = GPTQ, more: str = "type: random-hadamard") -> Recipe:
    return stages(quip(a=apply, block=block, more=more), last=last)


def quip(*, block: int | None = 64, more: str = "type: random-hadamard", **groups: Sequence[str]) -> str:
    """The modifier, with applications by the names of their groups."""
    head_dim = f"head_dim: {block}, " if block else ""
    listed = (f"{name}: {{{head_dim}{more}, apply: [{', '.join(apply)}]}}" for name, apply in groups.items())
    return f"QuIPModifier: {{transform_config: {{config_groups: {{{', '.join(listed)}}}}}}}"


def stages(*modifiers: str, last: str = STATIC) -> Recipe:
    """Each of the modifiers in a stage of its own, the last one in that of the one before it."""
    parts = (f"s{number}_stage:\n  a_modifiers:\n    {each}\n" for number, each in enumerate(modifiers))
    return load_recipe(f"{''.join(parts)}    {last}\n")


def at(targets: str, location: str, **fields: Any) -> str:
    return f"{{targets: 're:.*{targets}$', location: {location}{''.join(f', {k}: {v}' for k, v in fields.items())}}}"


def walked(which: Recipe, *, model: str = "qwen3-0.6b", **options: Any) -> Context:
    """The whole job, with its events."""
    job = toys.job(**{**SMALL, **options})
    return with_events(graph_of(model, job), which, job)


def taken(context: Context, *roles: str, device: Any = "gpu") -> list[tuple[str, int]]:
    """(module, bytes) of all that is taken in these roles."""
    return [(owner.name, size) for owner, size in births(context, device) if owner.role in roles]


def program(which: Recipe, *, model: str = "qwen3-0.6b", **options: Any) -> Any:
    job = toys.job(**{**SMALL, **options})
    return make_program(graph_of(model, job), which, job)[0]


def onloaded_matrices(which: Recipe, **options: Any) -> list[str]:
    return [name for name, size in taken(walked(which, **options), "") if size == 64 * 64 * 4 and "matrix" in name]
