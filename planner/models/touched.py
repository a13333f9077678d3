"""Finds the segment of a trace that first brings each weight to the GPU, and the weights that no segment does. Pure.

A weight that the forward never reads is never onloaded, and the plan counts nothing for it. That is right where the
job's data does not reach the weight (a vision tower in a text-only job), but anywhere else it would be a silent gap.
So a note names every weight that no segment touches, except the output head's, whose logits LLM Compressor never
computes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.models.graph import Onload, Structure, Unit
from planner.models.traces import ModelTrace

_SHOWN = 3
_NUMBERS = re.compile(r"(?<=\.)\d+(?=\.)")


def first_touches(trace: ModelTrace) -> dict[str, int]:
    """Index of the first segment that reads each weight, by the weight's full name."""
    touches: dict[str, int] = {}
    for segment in trace.segments:
        for event in segment.events:
            if event.kind == "onload":
                name = event.parameter
                name = segment.target + name if name.startswith(".") else name
                touches.setdefault(name, segment.index)
    return touches


def with_onloads(units: Sequence[Unit], structures: Sequence[Structure], trace: ModelTrace) -> list[Unit]:
    """The units with `onload` from the trace; a unit without weights of its own keeps its `onload`."""
    touches = first_touches(trace)
    return [_with_onload(unit, structures[unit.structure], touches, trace) for unit in units]


def untouched(units: Sequence[Unit], structures: Sequence[Structure], trace: ModelTrace) -> dict[str, tuple[str, ...]]:
    """Full names of the weights that no segment reads, by unit; tied ones belong to the unit that owns them."""
    touches = first_touches(trace)
    missing = {
        unit.name: tuple(
            unit.name + parameter.name
            for parameter in structures[unit.structure].parameters
            if not parameter.tied and unit.name + parameter.name not in touches
        )
        for unit in units
        if unit.kind != "head"
    }
    return {name: weights for name, weights in missing.items() if weights}


def untouched_note(names: Sequence[str]) -> str:
    """A sentence that names weights which the forward never reads; a star stands for layer numbers."""
    patterns = dict.fromkeys(_NUMBERS.sub("*", name) for name in names)
    shown, more = list(patterns)[:_SHOWN], len(patterns) - _SHOWN
    count = f"{len(names):,} weights are" if len(names) > 1 else "1 weight is"
    listed = f"{', '.join(shown)}{f' and {more} more' if more > 0 else ''}"
    return f"{count} never read by a forward of this job's data, and so never onloaded while calibrating: {listed}"


def _with_onload(unit: Unit, structure: Structure, touches: Mapping[str, int], trace: ModelTrace) -> Unit:
    weights = [unit.name + parameter.name for parameter in structure.parameters if not parameter.tied]
    if not weights:
        return unit
    index = min((touches[name] for name in weights if name in touches), default=None)
    return replace(unit, onload=_onload(unit, index, trace))


def _onload(unit: Unit, index: int | None, trace: ModelTrace) -> Onload:
    if index is None:
        return "setup" if unit.kind == "head" else "never"
    if trace.segments[index].target == unit.name:
        return "own-subgraph"
    if index == 0:
        return "head"
    return "last" if index == len(trace.segments) - 1 else "another"
