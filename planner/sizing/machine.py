"""A plan with what it takes of the machine around the card: RAM as the process has it, and disk."""

from typing import TYPE_CHECKING

from planner.compress.host_schema import HostSetting, Loading
from planner.compress.program import Program
from planner.compress.schema import Plan
from planner.sizing.disk import Saved, disk_of
from planner.sizing.host import host_of
from planner.sizing.host_constants import HostConstants
from planner.sizing.host_facts import host_model

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph


def with_machine(
    plan: Plan,
    graph: "ModelGraph",
    program: Program,
    loading: Loading | None = None,
    setting: HostSetting | None = None,
    constants: HostConstants | None = None,
    saved: Saved | None = None,
) -> Plan:
    """The plan with `host` and `disk`; graph and program are those that it was made from, `saved` as in `disk_of`.

    A rule of thumb has no steps to go by: such a plan comes back as it is.
    """
    if plan.method != "simulate":
        return plan
    model = host_model(graph, program, plan.job)
    host = host_of(plan, model, loading, setting, constants)
    disk = disk_of(graph, program, plan.job, model, loading, constants, saved)
    return plan.model_copy(update={"host": host, "disk": disk})
