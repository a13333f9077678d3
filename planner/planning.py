"""One job in, one Plan out: where graph, recipe, modifiers and pipeline meet."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.inferred import check_sequential, pass_notes, passes
from planner.compress.oneshot import simulate
from planner.compress.plans import rule_plan, simulated_plan
from planner.compress.schema import Plan
from planner.job import Job
from planner.notes import Note
from planner.recipe.load import load_recipe
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
    said: list[str] = [*recipe.notes]
    program = make_program(graph, recipe, job, said)
    notes = [*graph.notes, *(Note(kind="recipe", text=text) for text in said)]
    pipelines = {each.pipeline for each in passes(program, job)}
    if "sequential" in pipelines:
        check_sequential(graph)
    if method == "rule-of-thumb":
        return rule_plan(graph, recipe, job, notes)
    outcome = simulate(program, Context(job=job), fold=fold)
    if pipelines != {"datafree"}:
        notes += graph.trace.notes
    notes += pass_notes(program, job)
    return simulated_plan(graph, recipe, job, outcome, notes)


def _silent(_text: str) -> None:
    """No progress wanted."""
