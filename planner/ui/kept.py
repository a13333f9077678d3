"""What is kept between two questions: built models, traced graphs, simulated jobs. So much of each, the latest."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from planner.choose.estimator import Estimator, Trial, without_card
from planner.choose.strategies import ASKED, Strategy
from planner.compress.binding import decides_program, make_program
from planner.compress.fit import Rehearsal
from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.job import Build, Job
from planner.models.graph import ModelGraph
from planner.models.tuned import TunedBlock, TuningRequest
from planner.recipe.files import parse_recipe
from planner.recipe.specs import Recipe
from planner.ui.question import PASTED_RECIPE, ModelChoice, RecipeChoice

if TYPE_CHECKING:
    from planner.compress.program import Program
    from planner.compress.ranks import Rank
    from planner.models.built import BuiltModel
    from planner.models.source import ModelSource
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

V = TypeVar("V")


class Latest(Generic[V]):
    """A mapping that forgets what was asked for the longest ago, once it holds more than `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __getitem__(self, key: Hashable) -> V:
        self._values.move_to_end(key)
        return self._values[key]

    def forget_latest(self) -> None:
        """Forget the value that was asked for last."""
        if self._values:
            self._values.popitem()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of this key, made where it is not there. Nothing is kept of one that could not be made."""
        if key not in self._values:
            self.put(key, make())
        return self[key]

    def put(self, key: Hashable, value: V) -> None:
        """Keep this value, in the place of the one that is there."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self.most:
            self._values.popitem(last=False)


Untouched = Callable[[], AbstractContextManager[None]]
"""Makes a block that is not to be broken off: a module tree that was half traced is of no use to the next question."""


class Kept:
    """Built models, traces and trials of the last questions."""

    def __init__(self, say: Callable[[str], None], untouched: Untouched) -> None:
        self.say, self.untouched = say, untouched
        self.sources: Latest[ModelSource] = Latest(8)
        self.built: Latest[BuiltModel] = Latest(MODELS)
        self.graphs: Latest[ModelGraph] = Latest(GRAPHS)
        self.trials: Latest[Trial] = Latest(TRIALS)
        self.recipes: Latest[Recipe] = Latest(32)
        self.programs: Latest[Bound] = Latest(PROGRAMS)
        self.saved_files: Latest[Saved] = Latest(PROGRAMS)
        self.rehearsals: Latest[Rehearsal] = Latest(REHEARSALS)

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
            with self.untouched():
                return self._trained_whole(graph_of(built, job))

        return self.graphs.get((choice, job.decides_graph), make)

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

        return self.saved_files.get((choice, job.build, recipe), make)

    def rehearse(self, choice: ModelChoice, recipe: Recipe) -> "Rehearse":
        """Makes the rehearsal of a job, or takes it from one that differs in its card alone, of the same generation."""

        def rehearsal(program: "Program", job: Job, /, *, rank: "Rank | None") -> "Rehearsal":
            key = choice, recipe, without_card(job, recipe)
            known = self.rehearsals[key].on_card_of(job) if key in self.rehearsals else None
            if known is None:
                known = Rehearsal(program, job, rank=rank)
                self.rehearsals.put(key, known)
            return known

        return rehearsal

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
