"""What is kept between two questions: built models, traced graphs, simulated jobs. So much of each, the latest."""

import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from planner.choose.estimator import Estimator, Trial, without_card
from planner.choose.strategies import ASKED, Strategy
from planner.compress.binding import decides_program, make_program
from planner.compress.fit import Rehearsal
from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.job import Build, Job
from planner.models.graph import ModelGraph
from planner.models.tuned import TunedBlock, TuningRequest
from planner.notes import Note
from planner.recipe.files import parse_recipe
from planner.recipe.specs import Recipe
from planner.ui.latest import Latest
from planner.ui.question import PASTED_RECIPE, ModelChoice, RecipeChoice

if TYPE_CHECKING:
    from planner.compress.program import Program
    from planner.compress.ranks import Rank
    from planner.compress.schema import Plan
    from planner.models.built import BuiltModel
    from planner.models.source import ModelSource
    from planner.pictures.schema import Picture
    from planner.planning import Bound, Rehearse
    from planner.sizing.disk import Saved

MODELS = 2
GRAPHS = 8
"""Traces: one for each length, batch size and cut of a model."""
PROGRAMS = 16
"""Recipes bound to a model's modules, and the sizes of what they save."""
TRIALS = 40
"""Simulated jobs: the strategies of two or three questions."""
REHEARSALS = 4
"""Jobs on the card of the question: another size of it is mostly told the same, and is not simulated again."""
DRAFTS = 16
"""Plans; a hundredth of what a simulated job takes."""
PICTURES = 4
AHEAD = 10
"""So much of each may be there beside that of what nobody has asked for yet: a move of each slider up and down, and to
four other cards."""

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Drafted:
    """A plan, as far as it is known."""

    plan: "Plan"
    is_whole: bool
    """With its smallest card."""
    pictured_as: Hashable
    """Equal for plans that have one picture, but for the lines of the machine."""


Untouched = Callable[[], AbstractContextManager[None]]
"""Makes a block that is not to be broken off: a module tree that was half traced is of no use to the next question."""


class Kept:
    """Built models, traces, simulated jobs and plans of the last questions.

    With a `base` it is for what is planned ahead: what that has is found here, what is made here is found there as soon
    as somebody asks for it, and nothing that was asked for is forgotten for it.
    """

    def __init__(self, say: Callable[[str], None], untouched: Untouched, base: "Kept | None" = None) -> None:
        self.say, self.untouched = say, untouched

        def latest(most: int, of_base: Callable[[Kept], Latest[V]]) -> Latest[V]:
            return Latest(most) if base is None else Latest(AHEAD, of_base(base))

        self.sources: Latest[ModelSource] = latest(8, lambda kept: kept.sources)
        self.built: Latest[BuiltModel] = latest(MODELS, lambda kept: kept.built)
        self.graphs: Latest[ModelGraph] = latest(GRAPHS, lambda kept: kept.graphs)
        self.trials: Latest[Trial] = latest(TRIALS, lambda kept: kept.trials)
        self.recipes: Latest[Recipe] = latest(32, lambda kept: kept.recipes)
        self.programs: Latest[Bound] = latest(PROGRAMS, lambda kept: kept.programs)
        self.saved_files: Latest[Saved] = latest(PROGRAMS, lambda kept: kept.saved_files)
        self.rehearsals: Latest[Rehearsal] = latest(REHEARSALS, lambda kept: kept.rehearsals)
        self.drafts: Latest[Drafted] = latest(DRAFTS, lambda kept: kept.drafts)
        self.smallest: Latest[int | None] = latest(DRAFTS, lambda kept: kept.smallest)
        self.pictures: Latest[Picture | None] = latest(PICTURES, lambda kept: kept.pictures)
        self.simulating: Latest[float] = latest(DRAFTS, lambda kept: kept.simulating)
        """Seconds that the last simulation took, by model and recipe."""
        self.tracing: Latest[float] = latest(DRAFTS, lambda kept: kept.tracing)
        """Seconds that the last trace took, by model."""
        self.results: Latest[tuple[Any, tuple[Note, ...]]] = latest(16, lambda kept: kept.results)

    def source(self, choice: ModelChoice) -> "ModelSource":
        """The model that was chosen. Raises ModelError, at the latest after the Hub's patience."""
        from planner.models.source import listed_source, pasted_source

        if choice.config is not None:
            text = choice.config
            return self.sources.get(choice, lambda: pasted_source(text))
        name = (choice.name or "").strip()
        if choice not in self.sources:
            self.say(f"looking for {name}")
        return self.sources.get(choice, lambda: listed_source(name))

    def recipe(self, choice: RecipeChoice) -> Recipe:
        """The recipe that was chosen. Raises RecipeError or UnsupportedError."""
        if choice.text is not None:
            text = choice.text
            return self.recipes.get(choice, lambda: recipe_from_dict(parse_recipe(text, PASTED_RECIPE), PASTED_RECIPE))
        name = choice.name or ""
        return self.recipes.get(choice, lambda: load_recipe(name))

    def model(self, choice: ModelChoice, build: Build) -> "BuiltModel":
        """The model that was chosen, built. Raises ModelError."""
        source = self.source(choice)

        def make() -> "BuiltModel":
            from planner.models.load import load_built

            self.say(f"building {source.name} without weights")
            with self.untouched():
                return load_built(source, build)

        return self.built.get((choice, build), make)

    def graph(self, choice: ModelChoice, job: Job) -> ModelGraph:
        """The model as this job cuts it: traced once for all jobs that cut it so. Raises what `plan` raises."""

        def make() -> ModelGraph:
            from planner.models.load import graph_of

            built = self.model(choice, job.build)
            self.say(f"tracing {built.source.name}")
            began = time.monotonic()
            with self.untouched():
                graph = self._trained_whole(graph_of(built, job))
            self.tracing.put(choice, time.monotonic() - began)
            return graph

        return self.graphs.get((choice, job.decides_graph), make)

    def is_traced(self, choice: ModelChoice, job: Job) -> bool:
        """No model is built, and none is traced, for this job."""
        return (choice, job.decides_graph) in self.graphs and (choice, job.build) in self.built

    def bound(self, choice: ModelChoice, recipe: Recipe, job: Job) -> "Bound":
        """The recipe on the modules of the model. Raises what `plan` raises."""
        return self.programs.get(
            (choice, recipe, decides_program(recipe, job)), lambda: make_program(self.graph(choice, job), recipe, job)
        )

    def saved(self, choice: ModelChoice, recipe: Recipe, job: Job) -> "Saved":
        """The files that come out of it, as `saved_files` sizes them. Raises what `plan` raises."""

        def make() -> "Saved":
            from planner.sizing.disk import saved_files

            return saved_files(self.graph(choice, job), self.bound(choice, recipe, job)[0], job)

        return self.saved_files.get((choice, job.decides_saved, recipe), make)

    def rehearse(self, choice: ModelChoice, recipe: Recipe) -> "Rehearse":
        """Makes the rehearsal of a job, or takes it from one that differs in its card alone, of the same generation."""

        def rehearsal(program: "Program", job: Job, /, *, rank: "Rank | None") -> Rehearsal:
            key = self._rehearsed(choice, recipe, job)
            if key is not None:
                known = self.rehearsals[key]
                return known.on_card_of(job) or known
            began = time.monotonic()
            made = Rehearsal(program, job, rank=rank)
            self.simulating.put((choice, recipe), time.monotonic() - began)
            self.rehearsals.put((choice, recipe, without_card(job, recipe), made.told or job), made)
            return made

        return rehearsal

    def is_rehearsed(self, choice: ModelChoice, recipe: Recipe, job: Job) -> bool:
        """No simulation is needed for this job."""
        return self._rehearsed(choice, recipe, job) is not None

    def _rehearsed(self, choice: ModelChoice, recipe: Recipe, job: Job) -> tuple[Any, ...] | None:
        """Where the rehearsal is that can be taken to this job: on another card, it may be told otherwise."""
        asked = choice, recipe, without_card(job, recipe)
        for key in self.rehearsals:
            known = self.rehearsals.peek(key)
            assert isinstance(key, tuple)
            if key[:3] == asked and (known.job == job or known.on_card_of(job) is not None):
                return key
        return None

    def _trained_whole(self, graph: ModelGraph) -> ModelGraph:
        """The graph whose layers are trained and run again without being broken off: torch is at work there, too."""
        tune, receivers = graph.tune, graph.receivers
        if tune is None or receivers is None:
            return graph

        def untouched(request: TuningRequest) -> TunedBlock:
            with self.untouched():
                return tune(request)

        def received(keyword: str) -> frozenset[str]:
            with self.untouched():
                return receivers(keyword)

        return replace(graph, tune=untouched, receivers=received)


class KeptEstimator(Estimator):
    """An estimator of one question, which takes graphs and trials from the kept."""

    def __init__(self, kept: Kept, choice: ModelChoice, recipe: Recipe) -> None:
        super().__init__(kept.source(choice), recipe, kept.say)
        self.kept, self.choice_of_model = kept, choice
        self.model_name, self.recipe_text = pasteable(kept.source(choice)), recipe.name

    def graph(self, job: Job) -> ModelGraph:
        return self.kept.graph(self.choice_of_model, job)

    def built(self, build: Build) -> "BuiltModel":
        return self.kept.model(self.choice_of_model, build)

    def trial(self, job: Job, strategy: Strategy = ASKED) -> Trial:
        recipe = strategy.recipe(self.recipe)
        changed = without_card(self._job(job, strategy), recipe)

        def make() -> Trial:
            graph = self.graph(changed)
            self.kept.say(f"simulating {strategy.name}")
            bound = self.kept.bound(self.choice_of_model, recipe, changed)
            return Trial(graph, recipe, changed, self.kept.saved(self.choice_of_model, recipe, changed), bound=bound)

        return self.kept.trials.get((self.choice_of_model, changed, recipe), make)


def pasteable(source: "ModelSource") -> str:
    """The model as a command line takes it: its preset or Hub id, or the file that the text was pasted from."""
    from planner.models.source import list_presets

    is_preset = source.name in {preset.name for preset in list_presets()}
    return source.name if is_preset or source.hub_id is None else source.hub_id


def one_by_one(recipe: Recipe) -> Recipe:
    """The recipe with GPTQ's modules compressed one at a time."""
    from planner.choose.strategies import BATCHED

    return Strategy(name="", recipe_changes={BATCHED: 1}).recipe(replace(recipe))
