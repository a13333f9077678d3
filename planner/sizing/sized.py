"""A simulated plan with the RAM of its process and its disk."""

from typing import TYPE_CHECKING

from planner.compress.host_schema import Loading
from planner.compress.program import Program
from planner.compress.schema import Plan
from planner.errors import UnsupportedError
from planner.notes import Note
from planner.sizing.disk import Saved, disk_of
from planner.sizing.host_facts import host_model
from planner.sizing.machine import with_machine

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph


def sized(plan: Plan, graph: "ModelGraph", program: Program, saved: Saved | None = None) -> Plan:
    """The plan with `host` and `disk`, for a script that loads with `from_pretrained` and saves at the end.

    The program is the one that was simulated, `saved` as in `disk_of`. Where a part cannot be sized, a note says why.
    """
    if plan.method != "simulate":
        return plan
    try:
        if plan.job.weights != "gpu":
            loading = _loading(plan, graph.bytes + graph.buffer_bytes)
            return with_machine(plan, graph, program, loading, saved=saved)
        disk = disk_of(graph, program, plan.job, host_model(graph, program, plan.job), saved=saved)
    except UnsupportedError as error:
        return _with_note(plan, f"RAM of the process is an estimate: {error}")
    text = "For weights on the GPU, RAM is an estimate: how loading and saving go through it is not sized."
    return _with_note(plan.model_copy(update={"disk": disk}), text)


def _with_note(plan: Plan, text: str) -> Plan:
    return plan.model_copy(update={"notes": (*plan.notes, Note(kind="estimate", text=text))})


def _loading(plan: Plan, weight_bytes: int) -> Loading:
    """How the job's model is loaded: weights that stay on the disk leave the others the RAM that they take."""
    if plan.weights_on_disk is None:
        return Loading()
    extra = Loading().extra_cpu_bytes
    return Loading(available_ram_bytes=weight_bytes - plan.weights_on_disk.weights_bytes + extra)
