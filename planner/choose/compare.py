"""Recipes, strategies and machines side by side: each combination planned, with its own verdict."""

from collections.abc import Callable, Iterator, Sequence

from planner.choose.graphs import Graphs
from planner.choose.strategies import ASKED, Strategy, left_out, strategies
from planner.compress.schema import Plan
from planner.errors import JobError
from planner.hardware.machine import Machine
from planner.hints import did_you_mean, shorten
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.source import Named
from planner.planning import sized_plan
from planner.recipe.specs import Recipe
from planner.sizing.demands import judged

EVERY = "all"
"""The word for every strategy of the model."""

OnChosen = Callable[[ModelGraph, Recipe, Plan, Recipe], None]
"""Told of each plan as planning.OnPlan is, and of the recipe as it was before the strategy changed it."""


class Comparison:
    """Plans of one model."""

    def __init__(self, model: Named, say: Callable[[str], None], on_plan: OnChosen | None = None) -> None:
        self.graphs = Graphs(model, say)
        self._say, self._on_plan = say, on_plan

    def plans(
        self, recipes: Sequence[Recipe], job: Job, machines: Sequence[Machine], names: Sequence[str]
    ) -> tuple[Plan, ...]:
        """Every recipe with every strategy on every machine, in this order; `as asked` where no strategy is named.

        A strategy that a recipe has no use for is left out for it. Raises JobError for a strategy that the model does
        not have; what `plan` raises.
        """
        chosen = self._chosen(recipes, job, machines, names)
        plans = [
            (recipe, self._plan(recipe, job.on(machine), machine, strategy))
            for machine, recipe, strategies_of_it in chosen
            for strategy in strategies_of_it
        ]
        return tuple(judged(plan, plan.machine) for plan in self._with_results(plans))

    def _chosen(
        self, recipes: Sequence[Recipe], job: Job, machines: Sequence[Machine], names: Sequence[str]
    ) -> list[tuple[Machine, Recipe, tuple[Strategy, ...]]]:
        """Of each machine and recipe the strategies with these names, in their order."""
        if not names:
            return [(machine, recipe, (ASKED,)) for machine in machines for recipe in recipes]
        graph = self.graphs.of(Job.model_validate({**job.model_dump(exclude_unset=True), "sequential_targets": None}))

        def by_name(recipe: Recipe, on: Machine) -> dict[str, Strategy]:
            return {each.name: each for each in strategies(graph, recipe.on_gpus(on.gpus), job.on(on), gpus=on.gpus)}

        known = [(on, recipe, by_name(recipe, on)) for on in machines for recipe in recipes]
        some = dict.fromkeys(name for _, _, found in known for name in found)
        left = dict(left_out(graph))
        for name in names:
            if name in left:
                raise JobError(f"--strategy {name}: {left[name]}")
            if name not in (*some, EVERY):
                hint = did_you_mean(name, some) or ";"
                raise JobError(
                    f"--strategy {shorten(name)}: nothing that this job can do{hint} there are {', '.join(some)}"
                )
        wanted = tuple(some) if EVERY in names else names
        return [(on, recipe, tuple(found[name] for name in wanted if name in found)) for on, recipe, found in known]

    def _plan(self, recipe: Recipe, job: Job, machine: Machine, strategy: Strategy) -> Plan:
        try:
            changed = strategy.job(job)
        except ValueError as error:
            raise JobError(f"--strategy {strategy.name}: {error}") from None
        graph = self.graphs.of(changed)
        self._say(f"planning {recipe.name}: {strategy.name}")
        asked = recipe.on_gpus(machine.gpus)
        chosen = strategy.recipe(asked)
        plan = sized_plan(graph, chosen, changed)
        if self._on_plan:
            self._on_plan(graph, chosen, plan, asked)
        return plan.model_copy(update={"machine": machine, "strategy": None if strategy is ASKED else strategy.name})

    def _with_results(self, plans: Sequence[tuple[Recipe, Plan]]) -> Iterator[Plan]:
        """The result depends on the recipe alone, as it was asked for: it is sized once for each."""
        from planner.serving.results import with_results

        self._say("sizing the results")
        first = dict(reversed(plans))  # by the recipe, not by its name: two texts are both called "recipe text"
        sized = with_results(list(first.values()), list(first), self.graphs.built(plans[0][1].job.build))
        results = dict(zip(first, sized, strict=True))
        for recipe, plan in plans:
            found = results[recipe]
            notes = (note for note in found.notes if note.kind == "result")
            yield plan.model_copy(update={"result": found.result, "notes": tuple(dict.fromkeys((*plan.notes, *notes)))})
