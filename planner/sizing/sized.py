"""A simulated plan with the RAM of its process and its disk."""

from typing import TYPE_CHECKING

from planner.compress.host_schema import Loading
from planner.compress.schema import Plan
from planner.errors import UnsupportedError
from planner.notes import Note
from planner.recipe.specs import Recipe
from planner.sizing.machine import with_machine

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph


def sized(plan: Plan, graph: "ModelGraph", recipe: Recipe) -> Plan:
    """The plan with `host` and `disk`, for a script that loads with `from_pretrained` and saves at the end.

    Where a part of it cannot be sized, a note says why.
    """
    if plan.method != "simulate":
        return plan
    if plan.job.weights == "gpu":
        note = Note(kind="estimate", text="RAM of the process is not sized for weights on the GPU, its tensors alone.")
        return plan.model_copy(update={"notes": (*plan.notes, note)})
    try:
        return with_machine(plan, graph, recipe, _loading(plan, graph.bytes + graph.buffer_bytes))
    except UnsupportedError as error:
        note = Note(kind="estimate", text=f"RAM of the process is not sized, its tensors alone: {error}")
        return plan.model_copy(update={"notes": (*plan.notes, note)})


def _loading(plan: Plan, weight_bytes: int) -> Loading:
    """How the job's model is loaded: weights that stay on the disk leave the others the RAM that they take."""
    if plan.weights_on_disk is None:
        return Loading()
    extra = Loading().extra_cpu_bytes
    return Loading(available_ram_bytes=weight_bytes - plan.weights_on_disk.weights_bytes + extra)
