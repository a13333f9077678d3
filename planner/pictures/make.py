"""Pictures of plans: the job is walked once more, and every step that is not a copy is drawn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from planner.accepted import AnyModel, AnyRecipe, called, recipes_of
from planner.choose.compare import Comparison
from planner.compress.holdings import Peak
from planner.compress.program import StepMemory
from planner.compress.schema import CpuStep, GpuStep, Plan, Step
from planner.compress.watching import Form
from planner.hardware.machine import Machine
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.source import Named
from planner.pictures.condense import Album
from planner.pictures.reading import on_device
from planner.pictures.schema import (
    Capacity,
    DeviceKey,
    OnDevice,
    Picture,
    Pictured,
    Shifted,
    StepPicture,
)
from planner.pictures.walk import walked
from planner.planning import Bound, Progress, checked_program, compare
from planner.recipe.changes import Changes
from planner.recipe.specs import Recipe
from planner.reports.numbers import gib_short
from planner.reports.summary import card
from planner.sizing.demands import ram_of

NOT_DRAWN = "{} of {} steps are shown by their peaks and ends alone."


def pictured(
    model: AnyModel,
    recipes: Sequence[AnyRecipe],
    job: Job | None = None,
    machine: Machine | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[Pictured, ...]:
    """Plans of one model as `compare` makes them, each with its picture. Takes and raises what `compare` does."""
    chosen = recipes_of(recipes)
    drawer = Drawer(progress)
    plans = compare(model, chosen, job, progress=progress, machine=machine, on_plan=drawer.draw)
    return drawer.with_pictures(plans)


def pictured_on(
    model: Named,
    recipes: Sequence[Recipe],
    job: Job,
    machines: Sequence[Machine],
    strategies: Sequence[str] = (),
    *,
    changes: Changes | None = None,
    progress: Progress | None = None,
) -> tuple[Pictured, ...]:
    """Plans as `planner compare` makes them of recipes, strategies and machines, each with its picture.

    `changes`: what somebody set in the recipes. Raises what `Comparison.plans` does.
    """
    drawer = Drawer(progress, changes)
    comparison = Comparison(model, progress or _silent, drawer.draw)
    return drawer.with_pictures(comparison.plans(recipes, job, machines, strategies), model=called(model))


def _silent(_text: str) -> None:
    """Say nothing."""


def picture_of(graph: ModelGraph, recipe: Recipe, plan: Plan, bound: Bound | None = None) -> Picture | None:
    """The picture of a plan of this graph and recipe; None where nothing was simulated. Pure: no torch, no files.

    `bound` as in `drafted_plan`.
    """
    if plan.method != "simulate":
        return None
    program, _, _ = checked_program(graph, recipe, plan.job, bound)
    album = Album()
    steps = walked(program, plan, album.see)
    return _assembled(plan, steps, album, _shapes(graph))


class Drawer:
    """Draws plans while their graphs are there. `changes`: what somebody set in the recipes."""

    def __init__(self, progress: Progress | None = None, changes: Changes | None = None) -> None:
        self._say, self._changes = progress or _silent, changes or {}
        self._drawn: list[tuple[Picture | None, Changes]] = []

    def draw(self, graph: ModelGraph, recipe: Recipe, plan: Plan, asked: Recipe | None = None) -> None:
        """One plan of this recipe; `asked`: what it was before a strategy changed it."""
        self._say(f"drawing {recipe.name}")
        changes = {**self._changes, **dict(_differences(asked or recipe, recipe))}
        self._drawn.append((picture_of(graph, recipe, plan), changes))

    def with_pictures(self, plans: Sequence[Plan], model: str | None = None) -> tuple[Pictured, ...]:
        """The same plans once they are whole, in the order in which they were drawn."""
        return tuple(
            Pictured(plan, picture and on_machine(picture, plan), model=model, changes=changes)
            for plan, (picture, changes) in zip(plans, self._drawn, strict=True)
        )


def _differences(asked: Recipe, chosen: Recipe) -> Iterator[tuple[str, Any]]:
    """Fields of modifiers that a strategy changed."""
    for before, after in zip(asked.modifiers, chosen.modifiers, strict=True):
        for field in fields(after):
            value = getattr(after, field.name)
            if value != getattr(before, field.name):
                yield f"{after.type}.{field.name}", value


def _assembled(plan: Plan, walked_steps: Sequence[StepMemory], album: Album, shapes: Mapping[str, Form]) -> Picture:
    devices: list[DeviceKey] = ["gpu", *(["gpu1"] if plan.second_gpu else ()), "cpu"]
    first: dict[int, int] = {}
    """The step that each of the curves was drawn of, which comes before its copies."""
    steps: list[StepPicture] = []
    for step in plan.steps:
        seen = walked_steps[step.index] if step.index < len(walked_steps) else None
        steps.append(_step(step, seen, devices, album, first))
    missing = sum(any(each.curves is None for each in step.devices.values()) for step in steps)
    described = album.described(shapes)
    return Picture(
        devices=tuple(devices),
        capacities=_capacities(plan),
        kinds=album.kind_pictures(),
        whats=described.whats,
        lines=described.lines,
        curves=tuple(album.curves),
        steps=tuple(steps),
        notes=(NOT_DRAWN.format(missing, len(steps)),) if missing else (),
    )


def _shapes(graph: ModelGraph) -> dict[str, Form]:
    """Every weight of the model by its full name."""
    return {
        unit.name + parameter.name: Form(parameter.shape, parameter.dtype)
        for unit in graph.units
        for parameter in graph.structures[unit.structure].parameters
    }


def _step(
    step: Step, seen: StepMemory | None, devices: Sequence[DeviceKey], album: Album, first: dict[int, int]
) -> StepPicture:
    peaks = {device: on_device(seen, device) for device in devices} if seen else {}
    on = {device: _on_device(step, device, peaks.get(device), album) for device in devices}
    number = next((each.curves for each in on.values() if each.curves is not None), None)
    if number is None:
        return StepPicture(ticks=1, devices=on)
    look = next(peak.seen for peak in peaks.values() if peak and peak.seen)
    kept = album.steps[look.picture]
    like = first.setdefault(look.picture, step.index)
    return StepPicture(
        ticks=kept.length,
        like=None if like == step.index else like,
        renames=tuple(look.renames.items()),
        milestones=kept.milestones if like == step.index else (),
        devices=on,
    )


def _on_device(step: Step, device: DeviceKey, peak: Peak | None, album: Album) -> OnDevice:
    """The curves of the step, where they are the plan's to the byte."""
    planned = on_device(step, device)
    if peak is None or peak.seen is None or planned is None or peak.bytes != planned.peak_bytes:
        return OnDevice(curves=None)
    kept = album.steps[peak.seen.picture]
    shifts = tuple(
        Shifted(what=album.what(each.owner, each.kind, step.modifier), bytes=each.bytes) for each in peak.seen.shifts
    )
    own_card = _has_own_card(planned, kept.curves, album)
    return OnDevice(curves=kept.curves, whats=kept.whats, shifts=shifts, own_card=own_card)


def _has_own_card(planned: GpuStep | CpuStep, number: int, album: Album) -> bool:
    if isinstance(planned, CpuStep) or not album.curves[number].reserved:
        return True
    return album.most_on_card(number) == (planned.peak_allocated_bytes, planned.peak_reserved_bytes)


def on_machine(picture: Picture, plan: Plan) -> Picture:
    """With the lines of the machine that the plan was held against."""
    return picture.model_copy(update={"capacities": _capacities(plan)})


def _capacities(plan: Plan) -> tuple[Capacity, ...]:
    """The lines that the job must stay below: of a card, what the CUDA context leaves of it."""
    lines: list[Capacity] = []
    size, context = plan.job.gpu_memory_bytes, plan.gpu.context_bytes or 0
    less = " less the CUDA context" if context else ""
    cards: list[DeviceKey] = ["gpu", *(["gpu1"] if plan.second_gpu else ())]
    for device in cards:
        lines.append(Capacity(device=device, label=f"{card(plan.job)}{less}", bytes=size - context))
    ram = ram_of(plan.machine) if plan.machine else None
    if ram:
        lines.append(Capacity(device="cpu", label=f"RAM of {gib_short(ram)}", bytes=ram))
    return tuple(lines)
