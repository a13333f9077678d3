"""One job in, one Plan out: where graph, recipe, modifiers and pipeline meet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from planner.accepted import AnyModel, AnyRecipe, called, check_model, job_of, recipe_of, recipes_of
from planner.collector import seldom_collected
from planner.compress.binding import make_program
from planner.compress.card import card_notes
from planner.compress.context import Context, Shortcuts
from planner.compress.disk import disk_notes
from planner.compress.fit import Rehearsal
from planner.compress.holdings import DeviceName
from planner.compress.inferred import check_sequential, pipeline_notes, pipeline_runs
from planner.compress.oneshot import heaviest, heaviest_rank, simulate
from planner.compress.plans import placement_facts, plan_on_card, rule_plan, simulated_plan
from planner.compress.program import Program
from planner.compress.ranks import Rank, check_ranks, rank_notes
from planner.compress.schema import Plan
from planner.fields import PlanMethod
from planner.hardware.machine import Machine
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.notes import Note
from planner.recipe.specs import Recipe
from planner.serving.kernels import card_support
from planner.sizing.demands import judged
from planner.sizing.disk import Saved
from planner.sizing.sized import sized

Progress = Callable[[str], None]


class Rehearse(Protocol):
    """Makes a job's rehearsal."""

    def __call__(self, program: Program, job: Job, /, *, rank: Rank | None) -> Rehearsal: ...


OnPlan = Callable[[ModelGraph, Recipe, Plan], None]
"""Told of each plan while its graph is there; its result is not sized yet, and it is not held against a machine."""


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
    """Plan one job. `on_card=False` counts requests of a GPU alone, as the counting device of tests/meter does.

    With a machine, the job runs on its card, and the plan says whether all that it asks of card, RAM and disk is there.

    The model: a preset, config.json, folder or Hub id by name, the content of a config.json, or the graph that
    `load_model` returned. The recipe: a shipped name, a YAML file, recipe text, a mapping, a Recipe, or a list of
    modifiers, planner's or LLM Compressor's. Without a job, a graph is planned for the one that it was loaded for.

    Raises ModelError, RecipeError, JobError or UnsupportedError; nothing else for bad input.
    """
    return _plans(model, (recipe_of(recipe),), job, method, progress, on_card, machine)[0]


def compare(
    model: AnyModel,
    recipes: Sequence[AnyRecipe],
    job: Job | None = None,
    *,
    method: PlanMethod = "simulate",
    progress: Progress | None = None,
    machine: Machine | None = None,
    on_plan: OnPlan | None = None,
) -> tuple[Plan, ...]:
    """Plan several recipes on one model, which is built and traced once. Each plan has its result, as in `plan`.

    `on_plan` is told of each in this order.

    Takes and raises what `plan` does.
    """
    return _plans(model, recipes_of(recipes), job, method, progress, True, machine, on_plan)


@seldom_collected()
def _plans(
    model: AnyModel,
    recipes: Sequence[Recipe],
    given_job: Job | None,
    method: PlanMethod,
    progress: Progress | None,
    on_card: bool,
    machine: Machine | None,
    on_plan: OnPlan | None = None,
) -> tuple[Plan, ...]:
    check_model(model)
    job, show_progress = job_of(given_job, model), progress or _silent
    if machine is not None:
        job, recipes = job.on(machine), tuple(each.on_gpus(machine.gpus) for each in recipes)
    if isinstance(model, ModelGraph):
        sizes = (_told(model, each, sized_plan(model, each, job, method, on_card), on_plan) for each in recipes)
        return tuple(judged(_without_result(each), machine) for each in sizes)
    show_progress(f"building {called(model)} without weights")
    from planner.models.load import graph_of, load_built

    built = load_built(model, job.build)
    graph = graph_of(built, job)
    plans = []
    for recipe in recipes:
        show_progress(f"planning {recipe.name}")
        plans.append(_told(graph, recipe, sized_plan(graph, recipe, job, method, on_card), on_plan))
    show_progress("sizing the results")
    from planner.serving.results import with_results

    return tuple(judged(each, machine) for each in with_results(plans, recipes, built))


def _told(graph: ModelGraph, recipe: Recipe, plan: Plan, on_plan: OnPlan | None) -> Plan:
    if on_plan is not None:
        on_plan(graph, recipe, plan)
    return plan


def sized_plan(
    graph: ModelGraph, recipe: Recipe, job: Job, method: PlanMethod = "simulate", on_card: bool = True
) -> Plan:
    """One plan with RAM and disk, which is not yet held against a machine. The recipe is bound to the modules once."""
    ready = checked_program(graph, recipe, job)
    plan = sized(_planned(graph, recipe, job, ready, method=method, on_card=on_card), graph, ready[0])
    return _with_support(plan, ready[0])


def _with_support(plan: Plan, program: Program) -> Plan:
    schemes = (module.scheme for _, module in program.with_schemes.values() if module.scheme)
    return plan.model_copy(update={"card_support": card_support(schemes, plan.job.sm)})


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan but for its smallest card, which takes most of the time, and the rehearsal that knows where to look."""

    plan: Plan
    rehearsal: Rehearsal

    def whole(self) -> Plan:
        """The plan with it, as `sized_plan` makes it."""
        return with_smallest(self.plan, self.rehearsal.smallest() if self.plan.gpu.peak_reserved_bytes else None)


def with_smallest(draft: Plan, smallest: int | None) -> Plan:
    """The draft with its smallest card."""
    return draft.model_copy(update={"gpu": draft.gpu.model_copy(update={"smallest_card_bytes": smallest})})


def drafted_plan(
    graph: ModelGraph,
    recipe: Recipe,
    job: Job,
    bound: "Bound | None" = None,
    saved: Saved | None = None,
    rehearse: Rehearse = Rehearsal,
) -> Draft:
    """`sized_plan` in two parts, for whoever waits for it. The first has all that decides whether the job gets through
    on its cards.

    `bound` and `saved`: what `make_program` and `saved_files` said of the same graph and recipe, for whoever kept it;
    `rehearse` makes a rehearsal, or knows it of another card.
    """
    program, notes, notes_on_run = checked_program(graph, recipe, job, bound)
    rank = heaviest_rank(program, job)
    rehearsal = rehearse(program, job, rank=rank)
    draft = plan_on_card(graph, recipe, rehearsal, (*notes, *notes_on_run), with_smallest=False)
    draft = draft.model_copy(update=placement_facts(program, rank, rehearsal.roomy.steps))
    return Draft(_with_support(sized(draft, graph, program, saved), program), rehearsal)


def plan_graph(
    graph: ModelGraph,
    recipe: Recipe,
    job: Job,
    *,
    method: PlanMethod = "simulate",
    shortcuts: Shortcuts | None = None,
    on_card: bool = False,
    without_gpu: bool = False,
) -> Plan:
    """Plan a recipe on a model that is built already. Pure: no torch, no files.

    `on_card`, as `plan` has it: with what PyTorch's CUDA operators take besides, and with its caching allocator.
    Otherwise the GPU counts what is requested, as the counting device of tests/meter does.

    `without_gpu`: the machine has none, so that all is computed on the CPU, and every tensor is in its memory.

    `shortcuts=EVERYTHING` walks every repetition of the job instead of one for all equal ones. The bytes are the same;
    only names differ: in a data-free plan, folding makes one owner stand for several (`... and 30 more`).
    """
    ready = checked_program(graph, recipe, job)
    return _planned(
        graph, recipe, job, ready, method=method, shortcuts=shortcuts, on_card=on_card, without_gpu=without_gpu
    )


def _planned(
    graph: ModelGraph,
    recipe: Recipe,
    job: Job,
    ready: "Ready",
    *,
    method: PlanMethod = "simulate",
    shortcuts: Shortcuts | None = None,
    on_card: bool = False,
    without_gpu: bool = False,
) -> Plan:
    program, notes, notes_on_run = ready
    if method == "rule-of-thumb":
        return rule_plan(graph, recipe, job, notes)
    notes += notes_on_run
    if on_card and not without_gpu:
        rank = heaviest_rank(program, job)
        rehearsal = Rehearsal(program, job, shortcuts=shortcuts, rank=rank)
        planned, steps = plan_on_card(graph, recipe, rehearsal, notes), rehearsal.roomy.steps
    else:
        rank, outcome = heaviest(program, job, None)
        if outcome is None or shortcuts is not None or without_gpu:
            device: DeviceName = "cpu" if without_gpu else "gpu"
            outcome = simulate(program, Context(job, shortcuts=shortcuts, device=device, rank=rank))
        planned, steps = simulated_plan(graph, recipe, job, outcome, notes), tuple(outcome.steps)
    return planned.model_copy(update=placement_facts(program, rank, steps))


Notes = tuple[Note, ...]
Bound = tuple[Program, Notes]
"""What `make_program` makes of a recipe."""
Ready = tuple[Program, Notes, Notes]
"""A job that can be simulated; notes on model, recipe and job; notes on how it runs."""


def checked_program(graph: ModelGraph, recipe: Recipe, job: Job, bound: Bound | None = None) -> Ready:
    """The job ready to simulate; `bound` as in `drafted_plan`.

    Raises RecipeError or JobError where it cannot start in the library; UnsupportedError for a recipe that takes all
    GPUs where nobody said how many there are.
    """
    recipe.check_gpus(1 + job.has_second_gpu)
    program, binding_notes = bound or make_program(graph, recipe, job)
    check_ranks(program, job.ranks)
    pipelines = {each.pipeline for each in pipeline_runs(program, job)}
    if "sequential" in pipelines:
        check_sequential(graph)
    stops = graph.stops if "sequential" in pipelines else ()
    traced = graph.trace.notes if pipelines != {"datafree"} else ()
    notes = (*graph.notes, *recipe.notes, *binding_notes, *card_notes(job))
    notes_on_run = (*pipeline_notes(program, job), *disk_notes(program), *rank_notes(program, job.ranks))
    return program, notes, (*stops, *traced, *notes_on_run)


def _without_result(planned: Plan) -> Plan:
    """The plan with a note why it has no result: a graph lacks what serving is sized from, the built model."""
    note = Note(kind="result", text="What serving the result takes is not planned for a graph: name its model instead.")
    return planned.model_copy(update={"notes": (*planned.notes, note)})


def _silent(_text: str) -> None:
    """Ignore a progress message."""
