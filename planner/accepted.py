"""Turns what callers of `plan` and `compare` pass for model, recipe and job into the records that planning uses."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.errors import JobError, ModelError, RecipeError
from planner.fields import JOB_FIELDS
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.source import ModelSource, Named
from planner.recipe.specs import ModifierSpec, Recipe

AnyModel = Named | ModelGraph
"""A preset, config.json, folder or Hub id by name; the content of a config.json; or what `load_model` returned."""

Modifiers = Sequence[ModifierSpec] | Sequence[BaseModel | Sequence[BaseModel]]
"""planner's own specs, or LLM Compressor's modifiers, also in lists of their own."""

AnyRecipe = str | Path | Mapping[str, Any] | Recipe | ModifierSpec | BaseModel | Modifiers
"""A shipped name, a path or recipe text; the recipe as a mapping; what `load_recipe` returned; or modifiers."""


def check_model(given: AnyModel) -> None:
    """Raise ModelError unless `given` is a model or the name of one."""
    if not isinstance(given, str | Path | Mapping | ModelSource | ModelGraph):
        raise ModelError(
            "a model is a name or path, the content of a config.json, or what load_model returned, "
            f"not {_article(given)}"
        )


def called(model: Named) -> str:
    """The model's name, for a line about what is being done."""
    if isinstance(model, ModelSource):
        return model.name
    return "the model" if isinstance(model, Mapping) else str(model)


def recipe_of(given: AnyRecipe) -> Recipe:
    """Any accepted form of a recipe, as a Recipe. Raises RecipeError; UnsupportedError for modifiers not modelled."""
    if isinstance(given, Recipe):
        return given
    if isinstance(given, str | Path):
        return load_recipe(given)
    if isinstance(given, Mapping):
        return recipe_from_dict(dict(given), "recipe mapping")
    modifiers = tuple(_modifiers_in(given))
    if modifiers and all(isinstance(each, ModifierSpec) for each in modifiers):
        return _from_specs(modifiers)
    if modifiers and all(isinstance(each, BaseModel) for each in modifiers):
        return _from_library(modifiers)
    is_list = isinstance(given, Sequence) and modifiers
    what = f"a list that holds {_article(modifiers[0])}" if is_list else _article(given)
    raise RecipeError(
        f"a recipe is a shipped name, a path, recipe text, a mapping, a Recipe, or a list of modifiers, not {what}"
    )


def recipes_of(given: Sequence[AnyRecipe]) -> tuple[Recipe, ...]:
    """A list of recipes in any accepted form. Raises RecipeError for a single recipe or an empty list."""
    if isinstance(given, str | Path | Mapping | Recipe | BaseModel) or not isinstance(given, Sequence):
        raise RecipeError(f"compare takes a list of recipes, not {_article(given)}; for one recipe there is plan")
    if not given:
        raise RecipeError("compare takes at least one recipe")
    return tuple(recipe_of(each) for each in given)


def job_of(given: Job | None, model: AnyModel) -> Job:
    """The given job; without one, the job that a graph was loaded for, or else the default job.

    Raises JobError where the graph was loaded for a job that gives the model or its batches other sizes.
    """
    if given is not None and not isinstance(given, Job):
        raise JobError(f"a job is a planner.Job, not {_article(given)}")
    if not isinstance(model, ModelGraph):
        return given or Job()
    job = given or model.job
    for field in JOB_FIELDS:
        graph_value, job_value = getattr(model.job, field.name), getattr(job, field.name)
        if field.decides_graph and graph_value != job_value:
            raise JobError(
                f"{model.name} was loaded for a job with {field.name} {graph_value}, and this job has {job_value}: "
                "load_model(name, job) with this job, or name the model instead"
            )
    return job


def _modifiers_in(given: Any) -> Iterator[Any]:
    """Modifiers one by one, as the library's recipe/recipe.py `Recipe.create_instance` takes them: of a list, of lists
    in it (the old `AWQModifier(scheme=...)` makes one), and of its own Recipe."""
    if isinstance(given, Sequence):
        for each in given:
            yield from each if isinstance(each, Sequence) and not isinstance(each, str) else (each,)
    elif isinstance(given, BaseModel) and "modifiers" in type(given).model_fields:
        yield from given.modifiers  # type: ignore[attr-defined]  # a field of the library's Recipe
    else:
        yield given


def _from_specs(modifiers: Sequence[Any]) -> Recipe:
    return Recipe(name="+".join(spec.type for spec in modifiers), modifiers=tuple(modifiers))


def _from_library(modifiers: Sequence[BaseModel]) -> Recipe:
    """Recipe of LLM Compressor's modifier objects (modifiers/modifier.py `Modifier`): the fields that the user set."""
    stages = {
        f"{index}_stage": {"modifiers_modifiers": {type(each).__name__: _fields(each)}}
        for index, each in enumerate(modifiers)
    }
    return recipe_from_dict(stages, "+".join(type(each).__name__ for each in modifiers))


def _fields(modifier: BaseModel) -> dict[str, Any]:
    return modifier.model_dump(mode="json", exclude_unset=True)


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
