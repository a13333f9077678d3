"""What comes out of a compression job: what the recipe's result weighs, and what it needs to serve."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.compress.schema import Plan, Result
from planner.errors import PlannerError
from planner.formats.compressed import store_recipe
from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.notes import Note
from planner.recipe.specs import Recipe
from planner.serving.activations import Activations
from planner.serving.schema import ServeOptions
from planner.serving.serve import size_stored

if TYPE_CHECKING:
    from planner.models.built import BuiltModel


def with_results(plans: Sequence[Plan], recipes: Sequence[Recipe], built: "BuiltModel") -> tuple[Plan, ...]:
    """The plans with their results: one sequence of 4,096 tokens (or all the model takes) on one vLLM GPU.

    Without one where the job keeps a part of the layers only. Where a result cannot be sized, its plan says why in
    its notes.
    """
    if built.build.layers is not None or built.build.vision_layers is not None:
        return tuple(plans)
    from planner.serving.model import served_of

    try:
        whole = served_of(built)
    except PlannerError as error:
        return tuple(_without(plan, error) for plan in plans)
    return tuple(_with(plan, whole, recipe, built) for plan, recipe in zip(plans, recipes, strict=True))


def _with(plan: Plan, whole: tuple[ServedModel, Activations], recipe: Recipe, built: "BuiltModel") -> Plan:
    from planner.models.pruned import pruned
    from planner.serving.model import served_of

    try:
        left, rest = pruned(built, recipe)
        served, activations = whole if left is built else served_of(left)
        return plan.model_copy(update={"result": _result(served, activations, rest)})
    except PlannerError as error:
        return _without(plan, error)


def _without(plan: Plan, error: PlannerError) -> Plan:
    note = Note(kind="result", text=f"What serving the result takes is not known: {error}")
    return plan.model_copy(update={"notes": (*plan.notes, note)})


def _result(served: ServedModel, activations: Activations, recipe: Recipe) -> Result:
    stored = store_recipe(served, recipe)
    weight_format = Format(
        name=recipe.name,
        family="compressed-tensors",
        summary="what the recipe makes of the model",
        bits=None,
        store=lambda _: stored,
    )
    options = ServeOptions(engine="vllm", dtype="float32" if served.graph.itemsize == 4 else "bfloat16")
    serving = size_stored(served, activations, weight_format, stored, options)
    return Result(
        file_bytes=stored.file_bytes,
        weights_bytes=serving.weights.bytes,
        bits_per_weight=serving.weights.bits_per_weight,
        serving_bytes=serving.per_gpu.total_bytes,
        context=serving.context,
        kv_dtype=serving.kv_cache.dtype,
    )
