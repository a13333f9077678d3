"""The measured model and recipe in the form that `planner.plan` takes: a record is enough to plan its job again."""

from planner.compress.recipes import recipe_from_dict
from planner.measure.record import Measurement
from planner.models.source import ModelSource, source_of
from planner.recipe.files import parse_recipe
from planner.recipe.specs import Recipe


def measured_model(measurement: Measurement) -> ModelSource | str | None:
    """The model by the config in the record, or else by its name; None where the record says neither.

    Raises ModelError for a config that transformers has no code for.
    """
    model = measurement.model
    if model is None:
        return None
    return model.name if model.config is None else source_of(model.config, model.name)


def measured_recipe(measurement: Measurement) -> Recipe | str | None:
    """The recipe by its text in the record, or else by its name; None where the record says neither.

    Raises RecipeError for a text that is no recipe.
    """
    recipe = measurement.recipe
    if recipe is None:
        return None
    return recipe.name if recipe.text is None else recipe_from_dict(parse_recipe(recipe.text, recipe.name), recipe.name)
