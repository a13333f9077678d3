"""Runs one measured job, from the model's config to the record; whatever ends the job, the record keeps its steps."""

import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

import torch
from tqdm.std import tqdm

from planner.job import Job
from planner.job_arguments import oneshot_arguments
from planner.measure.checks import available_bytes, versions
from planner.measure.model import calibration_data, measured_model, tokenizer
from planner.measure.probes import CudaProbe, DeviceProbe, NoDevice, Sampler, resident_bytes
from planner.measure.record import Card, HostFacts, MeasuredModel, MeasuredRecipe, MeasuredStep, Measurement
from planner.measure.replacing import replaced
from planner.measure.steps import StepRecorder, watching
from planner.models.build import architecture, parameter_bytes, parameter_count
from planner.models.source import ModelSource

OnRecord = Callable[[Measurement], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to measure, and on what."""

    source: ModelSource
    recipe: MeasuredRecipe
    recipe_argument: str
    """A file's path or text, as `oneshot` takes it."""
    job: Job
    card: Card | None = None
    """None: the CPU alone."""
    collect: bool = False
    verbose: bool = False
    notes: tuple[str, ...] = field(default=())


def measure(request: Request, on_record: OnRecord | None = None, say: Say | None = None) -> Measurement:
    """Run the job. `complete` in the record says whether it reached its end, `stopped` why it did not.

    `on_record` gets the record so far after every step, marked as not complete.
    """
    return _Run(request, on_record or _ignore, say or _ignore).measure()


def _ignore(_what: object) -> None:
    """Ignore a record or a message."""


class _Run:
    def __init__(self, request: Request, on_record: OnRecord, say: Say) -> None:
        self.request, self.on_record, self.say = request, on_record, say
        self.probe: DeviceProbe = CudaProbe() if request.card else NoDevice()
        self.model = MeasuredModel(name=request.source.name, config=request.source.config)
        self.host = HostFacts()
        self.versions = versions()

    def measure(self) -> Measurement:
        output = _verbose if self.request.verbose else _quiet
        with output(), progress_bars(self.request.job, self.request.verbose), Sampler(self.probe) as sampler:
            recorder = StepRecorder(sampler, self._on_step)
            stopped = None
            try:
                self._run(recorder)
                recorder.end()
            except BaseException as error:
                stopped = f"{_reason(error)} in {recorder.where}"
                if not isinstance(error, Exception | KeyboardInterrupt):
                    raise
                recorder.end(partial=True)
        return self._record(tuple(recorder.steps), stopped)

    def _run(self, recorder: StepRecorder) -> None:
        from llmcompressor import oneshot

        request = self.request
        gc.collect()
        self.host = HostFacts(available_bytes=available_bytes(), baseline_rss_bytes=resident_bytes())
        self.say(f"building {request.source.name} with random weights")
        recorder.begin("load")
        with measured_model(request.source, request.job) as model:
            self.model = self.model.model_copy(update=_facts(model))
            data = calibration_data(model.config, request.job)
            recorder.begin("setup")
            with watching(recorder, request.collect):
                self.say(f"running oneshot with {request.recipe.name}")
                oneshot(**all_arguments(model, data, request))

    def _on_step(self, steps: tuple[MeasuredStep, ...]) -> None:
        last = steps[-1]
        self.say(f"measured {last.phase} of {last.unit}" if last.subgraph else f"measured {last.phase}")
        self.on_record(self._record(steps, f"the process ended after {last.phase} of {last.unit}"))

    def _record(self, steps: tuple[MeasuredStep, ...], stopped: str | None) -> Measurement:
        request = self.request
        return Measurement(
            source="device",
            complete=stopped is None,
            stopped=stopped,
            versions=self.versions,
            card=request.card,
            host=self.host,
            model=self.model,
            recipe=request.recipe,
            job=request.job,
            collected=request.collect,
            steps=steps,
            notes=request.notes,
        )


def all_arguments(model: Any, data: Any, request: Request) -> dict[str, Any]:
    """The keyword arguments of llmcompressor.oneshot for this request."""
    own = {"model": model, "tokenizer": tokenizer(), "recipe": request.recipe_argument, "dataset": data}
    return {**own, **oneshot_arguments(request.job)}


def _facts(model: Any) -> dict[str, object]:
    return {
        "architecture": architecture(model),
        "parameters": parameter_count(model),
        "bytes": parameter_bytes(model),
    }


def _reason(error: BaseException) -> str:
    """Why a job ended, in a few words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory" if isinstance(error, torch.OutOfMemoryError) else "out of CPU memory"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__} ({' '.join(lines)[:300]})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's log. Works before llmcompressor is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _verbose() -> Iterator[None]:
    """Let the library print its log and progress bars."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    yield


@contextmanager
def progress_bars(job: Job, shown: bool) -> Iterator[None]:
    """Progress bars as the job has them, shown or written nowhere.

    Bars that nobody sees stay switched on where the job has them: they keep a batch alive
    (planner/compress/pipelines/passes.py), as in users' jobs.
    """
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        where: dict[str, Any] = {} if shown else {"file": nowhere}
        off: dict[str, Any] = {} if job.progress_bars else {"disable": True}
        with replaced(tqdm, "__init__", partialmethod(tqdm.__init__, **where, **off)):
            yield
