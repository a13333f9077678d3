"""The model that is left where a recipe removes experts: built again, from a config that counts fewer."""

import copy
from dataclasses import replace

from planner.models.built import BuiltModel, built_model
from planner.models.described import facts_of
from planner.recipe.specs import ModuleRef, Recipe
from planner.upstream import EXPERT_COUNT_KEYS


def pruned(built: BuiltModel, recipe: Recipe) -> tuple[BuiltModel, Recipe]:
    """What the recipe leaves of the model, and what it does to that; the very same where it removes nothing.

    reap/utils.py `update_model_config` sets the number in the config that is saved. Raises UnsupportedError where some
    layers keep more than it says.
    """
    facts = facts_of(built.module.config)
    left = [one.experts_left(facts) for one in recipe.modifiers]
    counts = [count for count in left if count is not None]
    if not counts:
        return built, recipe
    refs = [ModuleRef(name, (type(module).__name__,)) for name, module in built.module.named_modules()]
    for one in recipe.modifiers:
        one.check_result(refs)
    values = copy.deepcopy(built.source.config)
    part = values["text_config"] if isinstance(values.get("text_config"), dict) else values
    key = next((key for key in EXPERT_COUNT_KEYS if part.get(key)), EXPERT_COUNT_KEYS[0])
    part[key] = min(counts)
    rest = tuple(one for one, count in zip(recipe.modifiers, left, strict=True) if count is None)
    smaller = replace(built.source, config=values, checkpoint_parameters=None)
    return built_model(smaller, built.build), replace(recipe, modifiers=rest)
