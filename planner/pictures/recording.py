"""Steps of a job event by event, as they were simulated: for a snapshot, which leaves nothing out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from planner.compress.holdings import DeviceName, Owner, Sight
from planner.compress.schema import Plan
from planner.compress.watching import Form, StepLog
from planner.models.graph import ModelGraph
from planner.pictures.reading import on_device
from planner.pictures.walk import walked
from planner.planning import checked_program
from planner.recipe.specs import Recipe
from planner.timeline import Handle, MemoryEvent


class Recorded(NamedTuple):
    """What a holding is."""

    owner: Owner
    kind: str
    form: Form | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvents:
    """One device in one step of the plan, event by event."""

    index: int
    opening: Mapping[Handle, int]
    """Bytes of what was live before."""
    events: Sequence[MemoryEvent]
    about: Mapping[Handle, Recorded]


def recorded(
    graph: ModelGraph, recipe: Recipe, plan: Plan, steps: Sequence[int], device: DeviceName = "gpu"
) -> tuple[StepEvents, ...]:
    """These steps of a plan of this graph and recipe on one device, in order; those that the simulation came to.

    A step that was not walked is the one that it copies, under its own names. Pure: no torch, no files.
    """
    program, _, _ = checked_program(graph, recipe, plan.job)
    seen = walked(program, plan, _events)
    found = []
    for index in steps:
        peak = on_device(seen[index], device) if index < len(seen) else None
        if peak is not None and peak.seen is not None:
            found.append(_as_planned(peak.seen, index))
    return tuple(found)


def _events(log: StepLog) -> StepEvents:
    """What of the step is kept."""
    handles = {*log.opening, *(handle for handle, _, _ in log.events)}
    about = {handle: Recorded(log.about(handle).owner, log.about(handle).kind, log.form(handle)) for handle in handles}
    return StepEvents(index=0, opening=log.opening, events=log.events, about=about)


def _as_planned(sight: Sight, index: int) -> StepEvents:
    """The step under its own names, with what is larger or smaller in it."""
    step: StepEvents = sight.picture
    opening = dict(step.opening)
    about = dict(step.about)
    for shift in sight.shifts:
        same = [handle for handle in opening if (about[handle].owner, about[handle].kind) == (shift.owner, shift.kind)]
        handle = same[0] if same else min((*opening, 0)) - 1
        about.setdefault(handle, Recorded(shift.owner, shift.kind, None))
        opening[handle] = opening.get(handle, 0) + shift.bytes
    named = {handle: each._replace(owner=each.owner.renamed(sight.renames)) for handle, each in about.items()}
    return replace(step, index=index, opening={h: size for h, size in opening.items() if size}, about=named)
