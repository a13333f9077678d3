"""A plan as Chrome trace events, which ui.perfetto.dev and chrome://tracing open.

Time is counted in ticks, one for every birth or death of a tensor. The format knows microseconds alone, so a tick is
written as one, and the names of the tracks say so: nothing is said of how long a job takes. The format:
"Trace Event Format", Google, 2016 (https://ui.perfetto.dev/#!/viewer reads it as `json_trace`).
"""

import json
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from planner.compress.schema import Plan
from planner.pictures.reading import LevelAt
from planner.pictures.schema import DEVICE_NAMES, DeviceKey, Picture
from planner.pictures.series import job_levels
from planner.reports.summary import answer, place

COUNTS = 20_000
"""Moments of a device in the whole trace, at most by this much per step."""
PROCESS = 1
SUBGRAPHS, STEPS, STAGES = 1, 2, 3
"""Tracks."""
TRACKS = {SUBGRAPHS: "subgraphs", STEPS: "steps", STAGES: "inside of steps"}

Event = dict[str, Any]


def perfetto(plan: Plan, picture: Picture) -> str:
    """The whole file, JSON. Counters' highest values are the plan's peaks, to the byte."""
    about = {
        "model": plan.model.name,
        "recipe": plan.recipe,
        "verdict": " ".join(answer(plan)),
        "time": "ticks: one for every birth or death of a tensor, written as 1 us; not wall time",
    }
    return json.dumps({"traceEvents": list(_events(plan, picture)), "otherData": about}, separators=(",", ":"))


def _events(plan: Plan, picture: Picture) -> Iterator[Event]:
    begins = list(accumulate((max(step.ticks, 1) for step in picture.steps), initial=0))
    title = f"{plan.model.name}, {plan.recipe} (time in ticks, 1 tick = 1 us; not wall time)"
    yield {"ph": "M", "name": "process_name", "pid": PROCESS, "args": {"name": title}}
    for track, name in TRACKS.items():
        yield {"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": track, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": PROCESS, "tid": track, "args": {"sort_index": track}}
    yield from _slices(plan, picture, begins)
    for device in picture.devices:
        yield from _counters(plan, picture, device, begins)


def _slices(plan: Plan, picture: Picture, begins: list[int]) -> Iterator[Event]:
    for step in plan.steps:
        begin, end = begins[step.index], begins[step.index + 1]
        figures = {"gpu_peak_bytes": step.gpu.peak_bytes, "cpu_peak_bytes": step.cpu.peak_bytes}
        yield _slice(STEPS, f"{step.phase} {step.unit}".strip(), begin, end, {"step": step.index, **figures})
        walked = step.index if picture.steps[step.index].like is None else picture.steps[step.index].like
        milestones = picture.steps[walked or 0].milestones
        ends = [*(tick for tick, _ in milestones), end - begin][1:]
        for (tick, text), stop in zip(milestones, ends, strict=True):
            yield _slice(STAGES, text, begin + tick, begin + max(stop, tick), {"step": step.index})
    yield from _subgraphs(plan, begins)


def _subgraphs(plan: Plan, begins: list[int]) -> Iterator[Event]:
    """One slice for all steps in a row of one subgraph."""
    rows: list[tuple[Any, int, int]] = []
    for step in plan.steps:
        key = step.modifier, step.subgraph
        if rows and rows[-1][0] == key:
            rows[-1] = key, rows[-1][1], step.index
        else:
            rows.append((key, step.index, step.index))
    for (modifier, subgraph), first, last in rows:
        if subgraph is not None:
            name = f"subgraph {subgraph} of {plan.steps[first].of}"
            about = {"modifier": modifier, "first": place(plan.steps[first])}
            yield _slice(SUBGRAPHS, name, begins[first], begins[last + 1], about)


def _slice(track: int, name: str, begin: int, end: int, about: dict[str, Any]) -> Event:
    return {
        "ph": "X",
        "name": name,
        "pid": PROCESS,
        "tid": track,
        "ts": begin,
        "dur": end - begin,
        "args": about,
    }


def _counters(plan: Plan, picture: Picture, device: DeviceKey, begins: list[int]) -> Iterator[Event]:
    moments = max(16, COUNTS // max(1, len(plan.steps)))
    last: dict[str, int] = {}
    for begin, levels in zip(begins, job_levels(plan, picture, device, moments), strict=False):
        for level in levels:
            for name, nbytes in _figures(level, device):
                if last.get(name) != nbytes:
                    last[name] = nbytes
                    yield {
                        "ph": "C",
                        "name": f"{DEVICE_NAMES[device]} {name}",
                        "pid": PROCESS,
                        "ts": begin + level.tick,
                        "args": {"bytes": nbytes},
                    }


def _figures(level: LevelAt, device: DeviceKey) -> Iterator[tuple[str, int]]:
    yield "requested", level.requested
    if device != "cpu" and level.reserved:
        yield "allocated", level.allocated
        yield "reserved", level.reserved
