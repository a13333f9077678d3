"""How a plan shows itself at a prompt and in a notebook, and the front door that remembers what its picture needs.

`planner.plan` and `planner.compare` are `planning.plan` and `planning.compare` that keep each plan's graph as long as
the plan lives: its picture is drawn when a notebook asks for it.
"""

import html as escaping
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from planner.accepted import AnyModel, AnyRecipe, called
from planner.compress.schema import Plan
from planner.compress.verdicts import peak_cpu_step, peak_gpu_step, verdict
from planner.fields import PlanMethod
from planner.hardware.machine import Machine
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.source import ModelSource
from planner.pictures.make import on_machine, picture_of
from planner.pictures.page import fragment
from planner.pictures.schema import Pictured
from planner.planning import Progress
from planner.planning import compare as compare_plans
from planner.planning import plan as plan_one
from planner.recipe.specs import Recipe
from planner.reports.advice import advice_line
from planner.reports.numbers import gib
from planner.reports.summary import answer as answer_lines
from planner.reports.summary import place

Draw = Callable[[Plan], Pictured]

_drawers: dict[int, Draw] = {}
"""By the identity of a plan, as long as it lives."""


def plan(
    model: AnyModel,
    recipe: AnyRecipe,
    job: Job | None = None,
    *,
    method: PlanMethod = "simulate",
    progress: Progress | None = None,
    on_card: bool = True,
    machine: Machine | None = None,
) -> Plan:
    """Plan one job, as `planning.plan` does; in a notebook, the plan shows its charts.

    With `on_card=False` it shows a table of its figures: charts are of a card.
    """
    if not on_card:
        return plan_one(model, recipe, job, method=method, progress=progress, on_card=False, machine=machine)
    return compare(model, (recipe,), job, method=method, progress=progress, machine=machine)[0]


def compare(
    model: AnyModel,
    recipes: Sequence[AnyRecipe],
    job: Job | None = None,
    *,
    method: PlanMethod = "simulate",
    progress: Progress | None = None,
    machine: Machine | None = None,
) -> tuple[Plan, ...]:
    """Plan several recipes on one model, as `planning.compare` does; in a notebook, each plan shows its charts."""
    kept: list[tuple[ModelGraph, Recipe]] = []

    def keep(graph: ModelGraph, recipe: Recipe, _plan: Plan) -> None:
        kept.append((graph, recipe))

    plans = compare_plans(model, recipes, job, method=method, progress=progress, machine=machine, on_plan=keep)
    typed = None if isinstance(model, ModelGraph | ModelSource) else called(model)
    for each, (graph, recipe) in zip(plans, kept, strict=True):
        _remember(each, graph, recipe, typed)
    return plans


def _remember(plan: Plan, graph: ModelGraph, recipe: Recipe, model: str | None) -> None:
    def draw(plan: Plan) -> Pictured:
        picture = picture_of(graph, recipe, plan)
        return Pictured(plan, picture and on_machine(picture, plan), model=model)

    _drawers[id(plan)] = draw
    weakref.finalize(plan, _drawers.pop, id(plan), None)


def text(record: Any) -> str | None:
    """A plan in a few lines; None for what says enough of itself."""
    return _plan_text(record) if isinstance(record, Plan) else None


def html(record: Any) -> str | None:
    """A plan's charts, or a table of its figures where there is nothing to draw them from; None for the rest."""
    if not isinstance(record, Plan):
        return None
    draw = _drawers.get(id(record))
    drawn = draw(record) if draw else None
    return fragment([drawn]) if drawn and drawn.picture else _table(record)


def answer(plan: Plan) -> str:
    """Whether the machine can do it, as reports say it."""
    return "\n".join(answer_lines(plan))


def advice(plan: Plan) -> str:
    """What to do next, with the command to type."""
    return advice_line(plan)


def _plan_text(plan: Plan) -> str:
    lines = [f"Plan of {plan.model.name}, {plan.recipe}: {_head(plan)}"]
    lines += [f"  {name:<8} {what}" for name, what in _figures(plan)]
    return "\n".join(lines)


def _head(plan: Plan) -> str:
    return answer_lines(plan)[0]


def _figures(plan: Plan) -> list[tuple[str, str]]:
    """The figures that matter, by name."""
    gpu, cpu = peak_gpu_step(plan), peak_cpu_step(plan)
    reserved = f", {gib(plan.gpu.peak_reserved_bytes)} reserved" if plan.gpu.peak_reserved_bytes else ""
    figures = [
        ("GPU", f"{gib(plan.gpu.peak_bytes)} at most{reserved}" + (f", in {place(gpu)}" if gpu else "")),
        ("CPU", f"{gib(plan.cpu.peak_bytes)} of tensors at most" + (f", in {place(cpu)}" if cpu else "")),
        ("steps", f"{len(plan.steps)} in .steps; notes: {len(plan.notes)} in .notes"),
    ]
    return figures if plan.steps else figures[:2]


_COLOURS = {"fits": "#1a7f37", "tight": "#8a6100", "over": "#b3261e"}


def _table(plan: Plan) -> str:
    """A small table, for a plan that was read from a file."""
    say = escaping.escape
    rows = "".join(
        f'<tr><th style="text-align:left;padding-right:1.5em">{say(name)}</th>'
        f'<td style="text-align:left">{say(what)}</td></tr>'
        for name, what in [*_figures(plan), ("next", advice_line(plan))]
    )
    head = f"<strong>{say(plan.model.name)}, {say(plan.recipe)}</strong>"
    told = f'<div style="color:{_COLOURS[verdict(plan)]}">{say(_head(plan))}</div>'
    return f'<div class="planner-plan">{head}{told}<table>{rows}</table></div>'
