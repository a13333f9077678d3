"""Plans one model and recipe under many jobs: built once, traced once for each cut, simulated once for each job.

Everything that `strategies`, `fit` and `rent` say comes from here: a `Trial` is a job that was simulated, and it
answers what the job asks of any machine. Another card costs a replay of its tape, not another simulation.
"""

from collections.abc import Callable
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from planner.accepted import AnyRecipe, called, recipe_of
from planner.choose.graphs import Graphs
from planner.choose.paste import command_line, library_call
from planner.choose.schema import Choice, moved_from_gpu, moved_to_gpu, passes
from planner.choose.strategies import ASKED, Strategy
from planner.compress.binding import decides_program, make_program
from planner.compress.card import card_notes
from planner.compress.fit import Attempt, Rehearsal
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.oneshot import heaviest_rank
from planner.compress.plans import placement_facts, simulated_plan
from planner.compress.program import Outcome
from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan
from planner.errors import JobError, PlannerError
from planner.hardware.demand import Demand, binding, fits
from planner.hardware.machine import MAX_RAM, Machine
from planner.job import Build, Job
from planner.models.graph import ModelGraph
from planner.models.source import Named
from planner.notes import Note
from planner.planning import Bound, checked_program
from planner.recipe.changes import Changes
from planner.recipe.specs import Recipe
from planner.sizing.demands import CardNeed, demands_on, disk_need, host_demands_on, ram_need
from planner.sizing.disk import Saved, saved_files
from planner.sizing.sized import sized

if TYPE_CHECKING:
    from planner.models.built import BuiltModel

CAPABILITIES = (100, 90, 80)
"""Compute capabilities from which on PyTorch's operators ask for other sizes (planner/cuda/build.py)."""
OLDER = 75


class Trial:
    """One job that was simulated on a card with room, and what it asks of any machine."""

    def __init__(
        self,
        graph: ModelGraph,
        recipe: Recipe,
        job: Job,
        saved: Saved | None = None,
        alike: "Trial | None" = None,
        bound: Bound | None = None,
    ) -> None:
        """`saved`: another trial's, with the same model and recipe; `alike`: of a job that differs `on_host` alone;
        `bound` as in `drafted_plan`."""
        program, notes, notes_on_run = checked_program(graph, recipe, job, bound)
        self.recipe, self.job = recipe, job
        rank = heaviest_rank(program, job)
        self.rehearsal = Rehearsal(program, job, rank=rank)
        steps = list(self.rehearsal.roomy.steps)
        on_model = (note for note in notes if note not in set(card_notes(job)))
        notes = (*on_model, *notes_on_run, *self.rehearsal.notes)
        plan = simulated_plan(graph, recipe, job, Outcome(steps=steps), notes)
        plan = plan.model_copy(update=placement_facts(program, rank, steps))
        self.saved = saved or saved_files(graph, program, job)
        self.plan: Plan = sized(plan, graph, program, self.saved)
        self._attempts: dict[tuple[int, bool], Attempt] = {}
        self._on_cards = alike if alike and _of_card(alike) == _of_card(self) else self
        """Who tries cards: what takes the same of one with room, step by step, takes the same of any."""

    @property
    def fails(self) -> str | None:
        """Why LLM Compressor itself would not finish the job, or not with a result that is worth anything."""
        return next((note.text for note in self.plan.notes if note.kind == "fails"), None)

    @cached_property
    def smallest_card(self) -> int:
        """The smallest card on which it gets through; 0 where it needs none."""
        if self._on_cards is not self:
            return self._on_cards.smallest_card
        return self.rehearsal.smallest() if self.plan.gpu.peak_bytes else 0

    def on(self, card: int, *, exactly: bool = True) -> Attempt:
        """The job on a card of so many bytes; less than exactly, with shorter walks than a plan has."""
        if self._on_cards is not self:
            return self._on_cards.on(card, exactly=exactly)
        key = card, exactly
        if key not in self._attempts:
            self._attempts[key] = self.rehearsal.exactly_on(card) if exactly else self.rehearsal.on(card)
        return self._attempts[key]

    @cached_property
    def moved_bytes(self) -> int:
        """What the whole job carries to its GPUs and from them."""
        return moved_to_gpu(self.plan) + moved_from_gpu(self.plan)

    def host_demands(self, machine: Machine) -> tuple[Demand, ...]:
        """`demands` on all but cards."""
        return host_demands_on(machine, ram_need(self.plan), disk_need(self.plan.disk))

    def demands(self, machine: Machine) -> tuple[Demand, ...]:
        """What it asks of each resource of the machine, and what the machine has of it."""
        return self._demands(machine, self.smallest_card, exactly=True)

    def quick_demands(self, machine: Machine, *, exactly: bool = False) -> tuple[Demand, ...]:
        """`demands` with nothing said of cards smaller than one with room; less than exactly, by shorter walks."""
        return self._demands(machine, _with_context(self.rehearsal, self.rehearsal.roomy), exactly=exactly)

    def _demands(self, machine: Machine, smallest: int, *, exactly: bool) -> tuple[Demand, ...]:
        disk, second = disk_need(self.plan.disk), self._second(machine)
        return demands_on(machine, self._card(machine, smallest, exactly=exactly), ram_need(self.plan), disk, second)

    def _card(self, machine: Machine, smallest: int, *, exactly: bool) -> CardNeed:
        roomy, has = self.rehearsal.roomy, machine.gpu_memory_bytes
        is_known = bool(self.plan.gpu.peak_bytes and has)
        if not is_known or has is None or has < self.rehearsal.least:
            tried, runs_out = roomy, is_known
        else:
            tried = self.on(has, exactly=exactly)
            runs_out = tried.ran_out is not None
        return CardNeed(
            device_total=_with_context(self.rehearsal, roomy if runs_out else tried),
            smallest=smallest,
            retries=0 if runs_out and tried is roomy else tried.retries,
            runs_out=runs_out,
            cards=self.job.ranks,
        )

    def _second(self, machine: Machine) -> CardNeed | None:
        """The card on which activations wait, or the fullest of those that layers are spread over, if there is one."""
        if not self.rehearsal.program.second_gpu:
            return None
        total = machine.gpu_memory_bytes or self.job.gpu_memory_bytes
        used, room = self.rehearsal.second_on(total), self.rehearsal.second_on(MAX_RAM)
        assert used is not None
        assert room is not None
        return CardNeed(
            device_total=room.reserved + self.rehearsal.context_bytes,
            smallest=self.rehearsal.smallest_second() or 0,
            retries=used.retries,
            runs_out=used.ran_out is not None,
            cards=self.rehearsal.program.other_gpus,
        )


def _of_card(trial: Trial) -> list[tuple[Any, ...]]:
    """What each step takes of a card with room."""
    steps = trial.rehearsal.roomy.steps
    return [(step.phase, step.gpu.bytes, step.gpu.end, step.gpu.by_kind, step.gpu.held) for step in steps]


def _with_context(rehearsal: Rehearsal, attempt: Attempt) -> int:
    """What the attempt reserved, and the CUDA context; 0 where nothing is computed on a GPU."""
    return attempt.reserved + rehearsal.context_bytes if attempt.reserved else 0


class Estimator:
    """Trials of one model, each made once. `say` is told what takes time.

    `changes`: fields of the recipe's modifiers instead of its own, for a recipe that is named by a text.
    """

    def __init__(
        self,
        model: Named,
        recipe: AnyRecipe,
        say: Callable[[str], None] | None = None,
        changes: Changes | None = None,
    ) -> None:
        self._say = say or (lambda _text: None)
        self._graphs = Graphs(model, self._say)
        self.model, self.changes = model, dict(changes or {})
        self.recipe = load_recipe(str(recipe), self.changes) if self.changes else recipe_of(recipe)
        self.recipe_text = str(recipe)
        self.model_name = called(model)
        self._trials: dict[tuple[Job, Recipe], Trial] = {}
        self._refused: dict[tuple[Job, Recipe], PlannerError] = {}
        self._alike: dict[tuple[Job, Recipe], Trial] = {}
        self._of_any_card: dict[tuple[Job, Recipe], Trial] = {}
        self._saved: dict[tuple[Any, Recipe], Saved] = {}
        self._bound: dict[tuple[Any, ...], Bound] = {}

    def on_gpus(self, count: int) -> Self:
        """The same for a machine with so many GPUs, where the recipe takes all that there are; trials are shared."""
        recipe = self.recipe.on_gpus(count)
        if recipe is self.recipe:
            return self
        there = copy(self)
        there.recipe = recipe
        return there

    def graph(self, job: Job) -> ModelGraph:
        """The model as this job cuts it. Raises ModelError; JobError for targets that match nothing."""
        return self._graphs.of(job)

    def built(self, build: Build) -> "BuiltModel":
        """The model of this size on the meta device. Raises ModelError."""
        return self._graphs.built(build)

    def trial(self, job: Job, strategy: Strategy = ASKED) -> Trial:
        """The strategy's job, simulated on a card with room. Raises what `plan` raises."""
        recipe = strategy.recipe(self.recipe)
        changed = without_card(self._job(job, strategy), recipe)
        key = (changed, recipe)
        if key in self._refused:
            raise self._refused[key]
        if key not in self._trials:
            self._say(f"simulating {self.recipe.name}: {strategy.name}")
            try:
                self._trials[key] = self._tried(changed, recipe)
            except PlannerError as error:
                self._refused[key] = error
                raise
        return self._trials[key]

    def trial_elsewhere(self, job: Job, strategy: Strategy = ASKED) -> Trial:
        """`trial` on a card of any generation: one that was made already, if there is one. What it carries, and what it
        asks of RAM and disk, are those of every card. Raises what `plan` raises."""
        recipe = strategy.recipe(self.recipe)
        key = of_any_card(without_card(self._job(job, strategy), recipe)), recipe
        return self._of_any_card.get(key) or self.trial(job, strategy)

    def _tried(self, job: Job, recipe: Recipe) -> Trial:
        """A new trial, with what others of this model know already."""
        size, alike = (job.decides_saved, recipe), (on_host(job), recipe)
        graph, program = self.graph(job), (recipe, *decides_program(recipe, job))
        if program not in self._bound:
            self._bound[program] = make_program(graph, recipe, job)
        trial = Trial(graph, recipe, job, self._saved.get(size), self._alike.get(alike), self._bound[program])
        self._saved[size] = trial.saved
        self._alike.setdefault(alike, trial)
        self._of_any_card.setdefault((of_any_card(job), recipe), trial)
        return trial

    def choice(
        self, job: Job, strategy: Strategy, machine: Machine, *, quick: bool = False, exactly: bool = False
    ) -> Choice:
        """The strategy on the machine, with all its figures; `quick` without the smallest card, and unless `exactly`
        by shorter walks than a plan's, by which a card near the limit may be judged otherwise.

        Raises what `plan` raises.
        """
        there = self.on_gpus(machine.gpus)
        if there is not self:
            return there.choice(job, strategy, machine, quick=quick, exactly=exactly)
        trial = self.trial(job, strategy)
        if quick:
            demands = trial.quick_demands(machine, exactly=exactly)
        else:
            self._say(f"looking for the smallest card: {strategy.name}")
            demands = trial.demands(machine)
        return Choice(
            strategy=strategy.name,
            changes=dict(strategy.changes),
            recipe_changes=dict(strategy.recipe_changes),
            samples=trial.job.samples,
            seq_len=trial.job.seq_len,
            is_same_result=strategy.is_same_result,
            fits="no" if trial.fails else fits(demands),
            binds=binding(demands),
            demands=demands,
            moved_to_gpu_bytes=moved_to_gpu(trial.plan),
            moved_from_gpu_bytes=moved_from_gpu(trial.plan),
            passes=passes(trial.plan),
            notes=self._own_notes(job, trial),
            fails=trial.fails,
            command=self.command(self._job(job, strategy), machine, strategy),
            python=library_call(trial.plan, self.recipe_text, trial.job, self._changes(strategy)),
        )

    def command(self, job: Job, machine: Machine, strategy: Strategy = ASKED) -> str:
        """The command line that plans this job with the strategy's recipe."""
        return command_line("plan", self.model_name, self.recipe_text, job, machine, self._changes(strategy))

    def _own_notes(self, job: Job, trial: Trial) -> tuple[Note, ...]:
        """Notes of this way to run the job that the job as asked does not have."""
        asked = set(self.trial(job).plan.notes)
        return tuple(note for note in trial.plan.notes if note not in asked and note.kind != "fails")

    def positions(self, job: Job) -> int | None:
        """Tokens that the model takes at most, by its config; None where that does not say it."""
        from planner.models.build import max_positions

        return max_positions(self.built(job.build).module.config)

    def _changes(self, strategy: Strategy) -> dict[str, Any]:
        """Fields of the recipe's modifiers that are not the recipe's."""
        of_gptq = {f"{GPTQSpec.type}.{field}": value for field, value in strategy.recipe_changes.items()}
        return {**self.changes, **of_gptq}

    def _job(self, asked: Job, strategy: Strategy) -> Job:
        try:
            return strategy.job(asked)
        except ValidationError as error:
            raise JobError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def on_host(job: Job) -> Job:
    """The job without what decides how it is loaded, and where weights wait that go to the card."""
    where = {} if job.weights == "gpu" else {"weights": "cpu", "ram_for_weights_bytes": None}
    return job.model_copy(update={**where, "linearized": False})


def of_any_card(job: Job) -> Job:
    """The job without its card's generation, which decides what operators take of it alone."""
    return job.model_copy(update={"sm": None})


def without_card(job: Job, recipe: Recipe) -> Job:
    """The job on a card of which only the generation matters: one simulation does for all cards of a generation.

    Of their size too, where the recipe does otherwise on GPUs of another size.
    """
    total = job.gpu_memory_bytes if recipe.adapts_to_card else Job().gpu_memory_bytes
    sm = next((each for each in CAPABILITIES if job.capability >= each), OLDER)
    return job.model_copy(update={"gpu": None, "gpu_memory_bytes": total, "sm": sm})
