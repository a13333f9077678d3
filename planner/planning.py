"""One job in, one Plan out: where graph, recipe, modifiers and pipeline meet."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.oneshot import simulate
from planner.compress.plans import rule_plan, simulated_plan
from planner.compress.program import Program
from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan
from planner.errors import JobError
from planner.job import Job
from planner.notes import texts
from planner.recipe.specs import Recipe

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

Method = Literal["simulate", "rule-of-thumb"]
Progress = Callable[[str], None]


def plan(
    model: str, recipe: str, job: Job | None = None, *, method: Method = "simulate", progress: Progress | None = None
) -> Plan:
    """Plan one job: a preset, config.json, folder or Hub id, with a shipped recipe's name or a YAML file.

    Raises ModelError, RecipeError, JobError or UnsupportedError; nothing else for bad input.
    """
    return compare(model, [recipe], job, method=method, progress=progress)[0]


def compare(
    model: str,
    recipes: Sequence[str],
    job: Job | None = None,
    *,
    method: Method = "simulate",
    progress: Progress | None = None,
) -> tuple[Plan, ...]:
    """Plan several recipes on one model; the model is built and traced once."""
    job, say = job or Job(), progress or _silent
    read = [load_recipe(name) for name in recipes]
    say(f"building {model} without weights")
    from planner.models.load import load_model

    graph = load_model(model, job)
    plans = []
    for recipe in read:
        say(f"planning {recipe.name}")
        plans.append(plan_graph(graph, recipe, job, method=method))
    say("sizing the results")
    from planner.serving.results import with_results

    return with_results(plans, read, model, job)


def plan_graph(
    graph: "ModelGraph", recipe: Recipe, job: Job, *, method: Method = "simulate", fold: bool = True
) -> Plan:
    """Plan a recipe on a model that is built already. Pure: no torch, no files.

    `fold=False` simulates every subgraph, equal or not; the bytes are the same (in a data-free plan, folding makes
    one owner stand for several: `... and 30 more`).
    """
    program, bound = make_program(graph, recipe, job)
    notes = [*graph.notes, *texts(recipe.notes), *texts(bound)]
    pipelines = _pipelines(program, job)
    if "sequential" in pipelines:
        _check_sequential(graph)
    if method == "rule-of-thumb":
        return rule_plan(graph, recipe, job, notes)
    outcome = simulate(program, Context(job=job), fold=fold)
    if pipelines != {"datafree"}:
        notes += graph.trace.notes
    notes += _pipeline_notes(job, program)
    return simulated_plan(graph, recipe, job, outcome, notes)


def _silent(_text: str) -> None:
    """No progress wanted."""


def _check_sequential(graph: "ModelGraph") -> None:
    """The sequential pipeline cannot start without sequential targets (infer_sequential_targets)."""
    if any(unit.onload == "own subgraph" for unit in graph.units):
        return
    classes = {ref.classes[0] for ref in graph.module_refs() if ref.classes}
    layers = sorted(name for name in classes if name.endswith(("Layer", "Block")))
    raise JobError(
        f"{graph.name}: transformers names no layer class for {graph.architecture}, so LLM Compressor cannot infer "
        f"sequential targets; name one with --sequential-targets (it has {', '.join(layers) or 'no layer classes'})"
    )


def _pipelines(program: Program, job: Job) -> set[str]:
    """Names of the pipelines that this job runs."""
    if job.pipeline != "independent":
        return {job.pipeline}
    return {"sequential" if run.spec.requires_calibration_data else "datafree" for run in program.runs}


def _pipeline_notes(job: Job, program: Program) -> list[str]:
    notes = []
    if job.pipeline == "basic":
        notes.append(
            "The basic pipeline computes where the model lies: loaded without a device map, that is the CPU, "
            "so its figures say nothing about a GPU."
        )
    if job.pipeline == "datafree" and any(run.spec.requires_calibration_data for run in program.runs):
        notes.append(
            "The datafree pipeline runs no forward, although a modifier of this recipe needs calibration data."
        )
    if job.pipeline == "independent" and len(program.runs) > 1:
        notes.append("The independent pipeline runs each modifier over the data in its own pass.")
    return notes
