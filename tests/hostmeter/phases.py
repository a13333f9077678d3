"""A running oneshot cut into phases, with this process's resident memory in each."""

import importlib
import re
import time
from typing import Any

import resident

AFTER = {"calibrate": "compress", "propagate": "between"}
"""What begins when a pass over the batches ends."""
MARKED_SUBGRAPHS = 3
"""Live tensors are looked for up to this subgraph: a look at all objects of Python takes seconds."""


class Phases:
    """One entry for each stretch of time. `begin` ends the open one: no moment is lost."""

    def __init__(self, tensors: bool):
        self.tensors = tensors
        self.segments: list[dict[str, Any]] = []
        self.marks: list[dict[str, Any]] = []
        self.open: dict[str, Any] | None = None
        self.pipeline = ""

    def begin(self, phase: str, subgraph: int | None = None, of: int | None = None) -> None:
        """From here on it is this phase (of this subgraph)."""
        self.end()
        if self.tensors and phase != "load" and (subgraph or 0) <= MARKED_SUBGRAPHS:
            self._mark(phase)
        resident.reset_peak()
        where = {} if subgraph is None else {"subgraph": subgraph, "of": of}
        self.open = {"phase": phase, "start": time.monotonic(), **where}

    def end(self) -> None:
        """Close the open entry."""
        if self.open is None:
            return
        now = resident.status()
        self.open |= {
            "end": time.monotonic(),
            "hwm": now["VmHWM"],
            "end_rss": now["VmRSS"],
            "end_anon": now["RssAnon"],
            "end_file": now["RssFile"],
        }
        self.segments.append(self.open)

    def between(self) -> None:
        """What follows belongs to no phase, in the subgraph that the job is in."""
        place = self.open or {}
        self.begin("between", place.get("subgraph"), place.get("of"))

    def _mark(self, phase: str) -> None:
        before = self.open or {}
        if before.get("phase") == phase:
            return
        self.marks.append(
            {
                "after": before.get("phase"),
                "subgraph": before.get("subgraph"),
                "before": phase,
                "malloc": resident.malloc_books(),
                "tensors": resident.live_tensors(),
                "status": resident.status(),
            }
        )


def watch(phases: Phases) -> None:
    """Hook the entry points that tests/meter/steps.py hooks too, so that they begin phases."""
    _watch_runs(phases)
    _watch_passes(phases)
    _watch_lifecycle(phases)
    _watch_save(phases)


def _watch_runs(phases: Phases) -> None:
    from llmcompressor.pipelines.registry import CalibrationPipeline

    from_modifiers = CalibrationPipeline.from_modifiers.__func__

    def watched(cls, modifiers, user=None):
        pipeline = from_modifiers(cls, modifiers, user)
        name = type(pipeline).__name__
        if name != "IndependentPipeline":  # it only calls the others
            phases.pipeline = name
        return pipeline

    CalibrationPipeline.from_modifiers = classmethod(watched)


def _watch_passes(phases: Phases) -> None:
    import llmcompressor.pipelines.sequential.pipeline as sequential

    get_batches = sequential._get_batches

    def watched(activations, count, names, description, *rest):
        number, of, what = re.match(r"\((\d+)/(\d+)\): (\w+)", description).groups()
        phase = "calibrate" if what == "Calibrating" else "propagate"
        phases.begin(phase, int(number), int(of))
        yield from get_batches(activations, count, names, description, *rest)
        phases.begin(AFTER[phase], int(number), int(of))

    sequential._get_batches = watched


def _watch_lifecycle(phases: Phases) -> None:
    from llmcompressor.core import LifecycleCallbacks

    def start(cls, **named):
        result = callbacks["calibration_start"](cls, **named)
        phases.begin("prepare" if phases.pipeline == "SequentialPipeline" else "calibrate")
        return result

    def epoch_end(cls, modules, **named):
        result = callbacks["sequential_epoch_end"](cls, modules, **named)
        phases.between()
        return result

    def end(cls, **named):
        phases.begin("finalize")
        return callbacks["calibration_end"](cls, **named)

    hooks = {"calibration_start": start, "sequential_epoch_end": epoch_end, "calibration_end": end}
    callbacks = {name: getattr(LifecycleCallbacks, name).__func__ for name in hooks}
    for name, hook in hooks.items():
        setattr(LifecycleCallbacks, name, classmethod(hook))


def _watch_save(phases: Phases) -> None:
    entry = importlib.import_module("llmcompressor.entrypoints.oneshot")  # its package hides it behind the function
    post_process = entry.post_process

    def watched(*values, **named):
        phases.begin("save")
        return post_process(*values, **named)

    entry.post_process = watched


def with_samples(segments: list[dict[str, Any]], readings: list[resident.Row]) -> None:
    """Give each segment the peaks of the readings that fall into it, or else what stood at its end."""
    for segment in segments:
        inside = [row for row in readings if segment["start"] <= row[0] <= segment["end"]]
        segment["samples"] = len(inside)
        for column, name in enumerate(("rss", "anon", "file"), start=1):
            segment[f"peak_{name}"] = max([row[column] for row in inside] + [segment[f"end_{name}"]])
        if inside:
            _, total, anonymous, files = max(inside, key=lambda row: row[1])
            segment["at_peak"] = {"rss": total, "anon": anonymous, "file": files}
