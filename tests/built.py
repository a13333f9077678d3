"""Real models, each built and traced once for all tests of a worker (tests/scheduling.py brings them together)."""

from collections.abc import Hashable, Sequence
from functools import lru_cache

import pytest

from planner.compress.fit import Rehearsal
from planner.fields import JOB_FIELDS
from planner.formats.served_model import ServedModel
from planner.job import Build, Job, dtype_named
from planner.models import load as loading
from planner.models.built import BuiltModel
from planner.models.graph import ModelGraph
from planner.models.load import graph_of as graph_of_built
from planner.models.load import load_built, load_model
from planner.models.source import ModelSource, list_presets, load_source
from planner.models.traces import ModelTrace
from planner.serving import model as serving
from planner.serving.activations import Activations
from planner.serving.model import load_served, served_of
from planner.serving.prefill import PrefillTracer
from planner.training import tracing as training
from planner.training.trace import TraceRequest, TrainingTrace
from planner.training.tracing import trace_training

PRESETS = frozenset(preset.name for preset in list_presets())


def graph_of(model: str, job: Job) -> ModelGraph:
    """The graph of a preset or a config file that does not change: graphs are frozen, so tests can share them.

    As many as the jobs of one model have (tests/measured): those of the GPU's runs and of the CPU's share them.
    """
    return _graph(model, cutting(job))


def cutting(job: Job) -> Job:
    """What of a job decides its model's graph; the rest as in any job."""
    return Job(**{field.name: getattr(job, field.name) for field in JOB_FIELDS if field.decides_graph})


@lru_cache(maxsize=64)
def _graph(model: str, job: Job) -> ModelGraph:
    return load_model(model, job)


def share_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, planner takes presets that an earlier test of this worker built, and their graphs: a preset
    never changes. Nor does the smallest card of a job on it."""
    monkeypatch.setattr(loading, "load_built", _shared_built)
    monkeypatch.setattr(loading, "graph_of", _shared_graph)
    monkeypatch.setattr(serving, "load_served", _shared_served)
    monkeypatch.setattr(training, "trace_training", _shared_trace)
    monkeypatch.setattr(Rehearsal, "smallest", _shared_smallest)


def _shared_built(model: object, build: Build) -> BuiltModel:
    return _built(model, build) if isinstance(model, str) and model in PRESETS else load_built(model, build)


def _shared_graph(built: BuiltModel, job: Job) -> ModelGraph:
    name = built.source.name
    is_shared = name in PRESETS and built is _built(name, built.build)
    return _traced(name, cutting(job)) if is_shared else graph_of_built(built, job)


@lru_cache(maxsize=8)
def _traced(preset: str, job: Job) -> ModelGraph:
    return graph_of_built(_built(preset, job.build), job)


def _shared_served(model: object, dtype: str = "bfloat16") -> tuple[ServedModel, Activations]:
    """The activations are new each time: they note what was asked of them."""
    if not isinstance(model, str) or model not in PRESETS:
        return load_served(model, dtype)
    return _served(model, dtype), PrefillTracer(_built(model, Build(dtype=dtype_named(dtype))))


def _shared_trace(source: ModelSource, request: TraceRequest, layers: Sequence[str]) -> TrainingTrace:
    if source.name not in PRESETS:
        return trace_training(source, request, layers)
    return _training_trace(source.name, request, tuple(layers))


@lru_cache(maxsize=32)
def _training_trace(model: str, request: TraceRequest, layers: tuple[str, ...]) -> TrainingTrace:
    return trace_training(load_source(model), request, layers)


def _shared_smallest(rehearsal: Rehearsal) -> int:
    """Of a job that adapts to its card it is looked for from the usual card on, whichever one was asked about."""
    program, job = rehearsal.program, rehearsal.job
    if not rehearsal._asks:
        return _smallest(rehearsal)
    anywhere = job.model_copy(update={"gpu": None, "gpu_memory_bytes": 2**40, "sm": job.capability})
    specs = tuple(run.spec for run in program.runs)
    key = id(program.trace), specs, anywhere, rehearsal.context_bytes, rehearsal.rank, rehearsal._shortcuts
    if key not in _SMALLEST:
        _SMALLEST[key] = program.trace, _smallest(rehearsal)
    return _SMALLEST[key][1]


_smallest = Rehearsal.smallest
_SMALLEST: dict[Hashable, tuple[ModelTrace, int]] = {}
"""With the trace, which stays then, and keeps its id."""


@lru_cache(maxsize=4)
def _built(model: str, build: Build) -> BuiltModel:
    return load_built(model, build)


@lru_cache(maxsize=8)
def _served(model: str, dtype: str) -> ServedModel:
    return served_of(_built(model, Build(dtype=dtype_named(dtype))))[0]
