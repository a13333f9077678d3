"""Which pipelines a job runs, over which modifiers: as asked, or as each modifier needs.

Mirrors llmcompressor/pipelines/registry.py `CalibrationPipeline._infer_pipeline` and
pipelines/independent/pipeline.py `IndependentPipeline`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from planner.compress.program import Program, Run
from planner.errors import JobError
from planner.job import Job
from planner.notes import Note

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

PipelineName = Literal["sequential", "basic", "datafree"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRun:
    """One pipeline from calibration_start to calibration_end, and the modifiers that it serves."""

    pipeline: PipelineName
    runs: tuple[Run, ...]


def pipeline_runs(program: Program, job: Job) -> tuple[PipelineRun, ...]:
    """The job's pipelines in the order in which they run."""
    if job.pipeline != "independent":
        return (PipelineRun(pipeline=job.pipeline, runs=program.runs),)
    return tuple(PipelineRun(pipeline=_needed_by(run), runs=(run,)) for run in program.runs)


def pipeline_notes(program: Program, job: Job) -> Iterator[Note]:
    """What the choice of pipelines means for the figures, or for the data."""
    if job.pipeline == "basic" and job.weights != "gpu":
        yield _note(
            "The basic pipeline computes where the model lies: without --weights gpu that is the CPU, "
            "so its figures say nothing about a GPU."
        )
    if job.pipeline == "basic":
        for run in program.runs:
            yield from run.spec.uncounted_in_basic()
    if job.pipeline == "datafree":
        for run in program.runs:
            yield from run.spec.without_data() if run.spec.requires_calibration_data else ()
    if job.pipeline == "independent" and len(program.runs) > 1:
        yield _note("The independent pipeline runs each modifier over the data in its own pass.")


def check_sequential(graph: "ModelGraph") -> None:
    """Raise JobError where the sequential pipeline cannot start: it has no targets to cut the model at.

    utils/pytorch/module.py `infer_sequential_targets`.
    """
    if any(unit.is_target for unit in graph.units):
        return
    classes = {ref.classes[0] for ref in graph.module_refs() if ref.classes}
    layers = sorted(name for name in classes if name.endswith(("Layer", "Block")))
    raise JobError(
        f"{graph.name}: transformers names no layer class for {graph.architecture}, so LLM Compressor cannot infer "
        f"sequential targets; name one with --sequential-targets (it has {', '.join(layers) or 'no layer classes'})"
    )


def _needed_by(run: Run) -> PipelineName:
    return "sequential" if run.spec.requires_calibration_data else "datafree"


def _note(text: str) -> Note:
    return Note(kind="job", text=text)
