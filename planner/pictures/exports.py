"""Forms of a plan's timeline for other programs: a slide, Perfetto, PyTorch's memory_viz."""

from planner.accepted import AnyModel
from planner.compress.schema import Plan
from planner.errors import JobError, OutputError
from planner.fields import PlanMethod
from planner.hardware.machine import Machine
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.pictures.make import on_machine, picture_of
from planner.pictures.perfetto import perfetto
from planner.pictures.recording import recorded
from planner.pictures.schema import Picture
from planner.pictures.slide import check_matplotlib, slide
from planner.pictures.snapshot import pickled, snapshot, steps_around
from planner.planning import Progress, compare
from planner.recipe.specs import Recipe
from planner.reports.forms import DrawnFormat

BINARY: frozenset[DrawnFormat] = frozenset({"png", "memory-viz"})
"""Forms that are no text."""


def check_form(form: DrawnFormat, output: str | None, method: PlanMethod = "simulate") -> None:
    """Raise OutputError or JobError, before any work is done, where this cannot be written."""
    if form in BINARY and output is None:
        raise OutputError(f"--format {form} is no text: name the file to write, as in --output plan{_SUFFIXES[form]}")
    if method != "simulate":
        raise JobError(f"--format {form} needs a simulated plan: leave out --method {method}")
    if form in ("svg", "png"):
        check_matplotlib()


def exported(
    model: AnyModel,
    recipe: Recipe,
    job: Job,
    form: DrawnFormat,
    machine: Machine | None = None,
    *,
    dark: bool = False,
    step: int | None = None,
    progress: Progress | None = None,
) -> tuple[Plan, bytes]:
    """Plan a job as `plan` does. Returns the plan, and the file of this form."""
    kept: list[tuple[ModelGraph, Recipe]] = []

    def keep(graph: ModelGraph, used: Recipe, _plan: Plan) -> None:
        kept.append((graph, used))

    (plan,) = compare(model, (recipe,), job, machine=machine, progress=progress, on_plan=keep)
    return plan, written(plan, *kept[0], form, dark=dark, step=step)


def written(
    plan: Plan, graph: ModelGraph, recipe: Recipe, form: DrawnFormat, *, dark: bool = False, step: int | None = None
) -> bytes:
    """The file of this form for a plan of this graph and recipe."""
    if form == "memory-viz":
        return pickled(snapshot(plan, recorded(graph, recipe, plan, steps_around(plan, step))))
    picture = _picture(plan, graph, recipe)
    return perfetto(plan, picture).encode() if form == "perfetto" else slide(plan, picture, form, dark=dark)


def _picture(plan: Plan, graph: ModelGraph, recipe: Recipe) -> Picture:
    picture = picture_of(graph, recipe, plan)
    assert picture is not None, "only simulated plans come here"
    return on_machine(picture, plan)


_SUFFIXES = {"png": ".png", "memory-viz": ".pickle"}
