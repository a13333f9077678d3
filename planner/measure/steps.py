"""Cut a running oneshot into the plan's steps, by wrapping the library's entry points.

This depends on the version (llmcompressor 0.14.0.1), and no other module does. The library calls,
in this order: `CalibrationPipeline.from_modifiers` (a pipeline run starts), `trace_subgraphs`,
`LifecycleCallbacks.calibration_start` (after it the cache is filled), then for each subgraph
`_get_batches` (calibrate), `sequential_epoch_end` (compress), `_get_batches` (propagate), at last
`calibration_end` and `post_process`.
"""

import gc
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from planner.measure.probes import Sampler
from planner.measure.record import CpuFigures, GpuFigures, MeasuredPhase, MeasuredStep
from planner.measure.replacing import replaced

COLLECTED_BATCHES = 2
# What a pipeline does first, once calibration_start has told the modifiers.
_AFTER_START: dict[str, MeasuredPhase] = {"SequentialPipeline": "prepare", "BasicPipeline": "calibrate"}
_DESCRIPTION = re.compile(r"\((\d+)/(\d+)\): (\w+)")

OnStep = Callable[[tuple[MeasuredStep, ...]], None]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the job is now."""

    phase: MeasuredPhase
    modifier: str | None = None
    subgraph: int | None = None
    of: int | None = None


class StepRecorder:
    """The steps so far. `begin` ends the open step and opens the next one, so that no moment is lost."""

    def __init__(self, sampler: Sampler, on_step: OnStep | None = None) -> None:
        self._sampler, self._on_step = sampler, on_step
        self._place: _Place | None = None
        self.steps: list[MeasuredStep] = []
        self.names: list[str] = []

    @property
    def where(self) -> str:
        """Where the job is now, in words: `2/5 compress`."""
        place = self._place or _Place("oneshot")
        return f"{place.subgraph}/{place.of} {place.phase}" if place.subgraph else place.phase

    @property
    def phase(self) -> MeasuredPhase | None:
        return self._place.phase if self._place else None

    @property
    def subgraph(self) -> tuple[int | None, int | None]:
        """Number of the subgraph that the job is in, and how many there are."""
        return (self._place.subgraph, self._place.of) if self._place else (None, None)

    def begin(self, phase: MeasuredPhase, subgraph: int | None = None, of: int | None = None) -> None:
        """End the open step and start one of this phase, for the same modifier."""
        modifier = self._place.modifier if self._place else None
        self.end()
        self._place = _Place(phase, modifier, subgraph, of)

    def rename(self, phase: MeasuredPhase) -> None:
        """The open step turns out to be of this phase, outside of the subgraphs."""
        if self._place:
            self._place = replace(self._place, phase=phase, subgraph=None, of=None)

    def serve(self, modifier: str) -> None:
        """The open step, and those that follow, serve this modifier."""
        if self._place:
            self._place = replace(self._place, modifier=modifier)

    def end(self, partial: bool = False) -> None:
        """End the open step. A `between` step is kept only where its peak is higher than the previous step's."""
        reading, place, self._place = self._sampler.take(), self._place, None
        if place is None:
            return
        step = MeasuredStep(
            index=len(self.steps),
            modifier=place.modifier,
            subgraph=place.subgraph,
            of=place.of,
            phase=place.phase,
            unit=self._unit(place),
            seconds=reading.seconds,
            partial=partial,
            gpu=reading.gpu,
            cpu=reading.cpu,
        )
        if step.phase == "between" and self.steps and not partial and not _higher(step, self.steps[-1]):
            self.steps[-1] = _extended(self.steps[-1], step)
            return
        self.steps.append(step)
        if self._on_step:
            self._on_step(tuple(self.steps))

    def _unit(self, place: _Place) -> str:
        if place.subgraph and place.subgraph <= len(self.names):
            return self.names[place.subgraph - 1]
        return "activation cache" if place.phase == "prepare" else place.phase


def _higher(step: MeasuredStep, last: MeasuredStep) -> bool:
    fields = ("requested_bytes", "allocated_bytes")
    return any((getattr(step.gpu, name) or 0) > (getattr(last.gpu, name) or 0) for name in fields)


def _extended(last: MeasuredStep, step: MeasuredStep) -> MeasuredStep:
    """The previous step, with the time and the sampled peaks of the step after it added."""
    gpu = {
        "reserved_bytes": _most(last.gpu.reserved_bytes, step.gpu.reserved_bytes),
        "device_bytes": _most(last.gpu.device_bytes, step.gpu.device_bytes),
        "end_allocated_bytes": step.gpu.end_allocated_bytes,
        "retries": last.gpu.retries + step.gpu.retries,
    }
    rss = {"rss_bytes": _most(last.cpu.rss_bytes, step.cpu.rss_bytes)}
    seconds = round((last.seconds or 0) + (step.seconds or 0), 4)
    figures: dict[str, GpuFigures | CpuFigures | float] = {
        "gpu": last.gpu.model_copy(update=gpu),
        "cpu": last.cpu.model_copy(update=rss),
        "seconds": seconds,
    }
    return last.model_copy(update=figures)


def _most(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


@contextmanager
def watching(recorder: StepRecorder, collect: bool = False) -> Iterator[None]:
    """Inside the block, the library's entry points tell the recorder where the job is.

    `collect` runs Python's collector after the first batches: a reference cycle of the first forward
    may hold its inputs until the collector happens to run, which makes peaks differ from run to run.
    """
    watcher = _Watcher(recorder, collect)
    with ExitStack() as stack:
        for owner, name, replacement in watcher.replacements():
            stack.enter_context(replaced(owner, name, replacement))
        yield


class _Watcher:
    """The wrapped entry points of one run."""

    def __init__(self, recorder: StepRecorder, collect: bool) -> None:
        # the package hides the module behind the function of the same name
        self.entry: Any = importlib.import_module("llmcompressor.entrypoints.oneshot")
        self.sequential: Any = importlib.import_module("llmcompressor.pipelines.sequential.pipeline")
        self.callbacks: Any = importlib.import_module("llmcompressor.core").LifecycleCallbacks
        self.registry: Any = importlib.import_module("llmcompressor.pipelines.registry").CalibrationPipeline
        self.recorder, self.collect = recorder, collect
        self.pipeline = ""

    def replacements(self) -> Iterator[tuple[Any, str, Any]]:
        """For each wrapped function, its owner, its name and its replacement."""
        for owner, name, wrap in (
            (self.registry, "from_modifiers", self._from_modifiers),
            (self.callbacks, "calibration_start", self._calibration_start),
            (self.callbacks, "sequential_epoch_end", self._epoch_end),
            (self.callbacks, "calibration_end", self._calibration_end),
        ):
            yield owner, name, classmethod(wrap(getattr(owner, name).__func__))
        yield self.sequential, "_get_batches", self._get_batches(self.sequential._get_batches)
        yield self.sequential, "trace_subgraphs", self._trace_subgraphs(self.sequential.trace_subgraphs)
        yield self.entry, "post_process", self._post_process(self.entry.post_process)

    def _from_modifiers(self, function: Any) -> Any:
        def wrapped(cls: Any, modifiers: Any, user: Any = None) -> Any:
            pipeline = function(cls, modifiers, user)
            name = type(pipeline).__name__
            if name != "IndependentPipeline":  # it only calls the others
                self.pipeline = name
                if self.recorder.phase != "setup":
                    self.recorder.begin("setup")
                self.recorder.serve("+".join(type(modifier).__name__ for modifier in modifiers))
            return pipeline

        return wrapped

    def _trace_subgraphs(self, function: Any) -> Any:
        def wrapped(model: Any, sample: Any, targets: Any, *rest: Any, **named: Any) -> Any:
            subgraphs = function(model, sample, targets, *rest, **named)
            self.recorder.names = subgraph_names(model, targets, subgraphs)
            return subgraphs

        return wrapped

    def _get_batches(self, function: Any) -> Any:
        def wrapped(activations: Any, count: int, names: Any, description: str, *rest: Any) -> Iterator[Any]:
            match = _DESCRIPTION.match(description)
            assert match, f"llmcompressor describes a pass as {description!r}"
            phase: MeasuredPhase = "calibrate" if match[3] == "Calibrating" else "propagate"
            self.recorder.begin(phase, int(match[1]), int(match[2]))
            for number, item in enumerate(function(activations, count, names, description, *rest)):
                yield item
                if self.collect and number < COLLECTED_BATCHES:
                    gc.collect()
            after: MeasuredPhase = "compress" if phase == "calibrate" else "between"
            self.recorder.begin(after, int(match[1]), int(match[2]))

        return wrapped

    def _calibration_start(self, function: Any) -> Any:
        def wrapped(cls: Any, **named: Any) -> Any:
            result = function(cls, **named)
            self.recorder.begin(_AFTER_START.get(self.pipeline, "compress"))
            return result

        return wrapped

    def _epoch_end(self, function: Any) -> Any:
        def wrapped(cls: Any, modules: Any, **named: Any) -> Any:
            if self.pipeline == "BasicPipeline":
                self.recorder.begin("compress")
            result = function(cls, modules, **named)
            self.recorder.begin("between", *self.recorder.subgraph)
            return result

        return wrapped

    def _calibration_end(self, function: Any) -> Any:
        def wrapped(cls: Any, **named: Any) -> Any:
            self.recorder.rename("finalize")
            return function(cls, **named)

        return wrapped

    def _post_process(self, function: Any) -> Any:
        def wrapped(*values: Any, **named: Any) -> Any:
            if named.get("output_dir"):
                self.recorder.begin("save")
            return function(*values, **named)

        return wrapped


def subgraph_names(model: Any, targets: Any, subgraphs: Any) -> list[str]:
    """One name per subgraph, as in the plan: the sequential targets that it runs, or `head`."""
    from compressed_tensors.utils import match_named_modules

    matched = {name for name, _ in match_named_modules(model, targets)}
    names = []
    for number, subgraph in enumerate(subgraphs):
        called = dict.fromkeys(node.target for node in subgraph.graph.find_nodes(op="call_module"))
        targets_inside = [name for name in called if name in matched]
        names.append(
            ", ".join(targets_inside) or ("head" if number == 0 else ", ".join(called) or f"subgraph {number + 1}")
        )
    return names
