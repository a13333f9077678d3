"""What comes out of a compression job: what the recipe's result weighs, and what it needs to serve."""

from planner.errors import PlannerError
from planner.footprint.compressed import store_recipe
from planner.footprint.formats import Format
from planner.footprint.model import Activations, ServedModel
from planner.footprint.schema import ServeOptions
from planner.job import Job
from planner.schema import Plan, Result
from planner.serving import size_stored
from planner.specs import Recipe


def load_result_model(model: str, job: Job) -> tuple[ServedModel, Activations] | None:
    """The model as it is served afterwards; None where the job keeps a part of its layers only."""
    if job.layers is not None or job.vision_layers is not None:
        return None
    from planner.models.serving import load_served

    return load_served(model, job.dtype)


def with_result(plan: Plan, model: tuple[ServedModel, Activations], recipe: Recipe) -> Plan:
    """The plan and its result: one sequence of 4,096 tokens (fewer where the model takes fewer) on one vLLM GPU.

    Where the result cannot be sized, the plan says why in its notes.
    """
    served, activations = model
    try:
        result = _result(served, activations, recipe)
    except PlannerError as error:
        return plan.model_copy(update={"notes": (*plan.notes, f"What the result weighs is not known: {error}")})
    return plan.model_copy(update={"result": result})


def _result(served: ServedModel, activations: Activations, recipe: Recipe) -> Result:
    stored = store_recipe(served, recipe)
    kept = Format(
        name=recipe.name,
        family="compressed-tensors",
        summary="what the recipe makes of the model",
        bits=None,
        store=lambda _: stored,
    )
    options = ServeOptions(engine="vllm", kv_dtype=stored.kv_dtype or served_dtype(served))
    serving = size_stored(served, activations, kept, stored, options)
    return Result(
        file_bytes=stored.file_bytes,
        weights_bytes=serving.weights.bytes,
        bits_per_weight=serving.weights.bits_per_weight,
        serving_bytes=serving.per_gpu.total_bytes,
        context=serving.context,
        kv_dtype=serving.kv_cache.dtype,
    )


def served_dtype(served: ServedModel) -> str:
    """vLLM's `kv_cache_dtype: auto`: keys and values in the model's own type."""
    return "float32" if served.graph.itemsize == 4 else "bfloat16"
