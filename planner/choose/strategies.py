"""Strategies: sets of LLM Compressor's arguments that place or order a job differently and compress the model alike."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from planner.choose.schema import Choice
from planner.choose.targets import count_targets, finer_targets
from planner.compress.modifiers.gptq import GPTQSpec
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.recipe.specs import Recipe

AS_ASKED = "as asked"
MANY_TARGETS = 1_000
"""Cuts into more subgraphs than this are not tried: to simulate them takes minutes, and each keeps activations."""
MANY_LINEARS = 20_000
BATCHED = "batched_quantization"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way to run a job, as what it changes of the job as asked."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the job."""
    recipe_changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every GPTQModifier in the recipe."""
    is_same_result: bool = True
    """The compressed model is the same but for rounding."""

    def job(self, asked: Job) -> Job:
        """The job that it makes of the one as asked. Raises ValueError where its options do not go together."""
        return Job.model_validate({**asked.model_dump(exclude_unset=True), **self.changes})

    def recipe(self, asked: Recipe) -> Recipe:
        """The recipe that it makes of the one that was asked for."""
        if not self.recipe_changes:
            return asked
        modifiers = (
            replace(spec, **self.recipe_changes) if isinstance(spec, GPTQSpec) else spec for spec in asked.modifiers
        )
        return replace(asked, modifiers=tuple(modifiers))

    def with_(self, other: "Strategy") -> "Strategy":
        """Both together; the other one's values go first where both change a field."""
        return Strategy(
            name=f"{self.name}, {other.name}",
            changes={**self.changes, **other.changes},
            recipe_changes={**self.recipe_changes, **other.recipe_changes},
            is_same_result=self.is_same_result and other.is_same_result,
        )

    def touches(self, other: "Strategy") -> bool:
        """Both change a common field."""
        jobs = self.changes.keys() & other.changes.keys()
        return bool(jobs or self.recipe_changes.keys() & other.recipe_changes.keys())


ASKED = Strategy(name=AS_ASKED)


def strategy_of(choice: Choice) -> Strategy:
    """The strategy that was chosen."""
    return Strategy(
        name=choice.strategy,
        changes=choice.changes,
        recipe_changes=choice.recipe_changes,
        is_same_result=choice.is_same_result,
    )


def strategies(
    graph: ModelGraph, recipe: Recipe, asked: Job, *, gpus: int = 1, ram_for_weights: int | None = None
) -> tuple[Strategy, ...]:
    """The job as asked, and every strategy that changes something of it.

    `graph` is the model cut at whole layers. `ram_for_weights`: bytes of RAM that weights may have where the others
    stay on the disk; None where nobody said how much RAM there is.
    """
    needs_data = any(spec.requires_calibration_data for spec in recipe.modifiers)
    candidates = [*_of_loading(graph, ram_for_weights)]
    if needs_data and asked.pipeline in ("independent", "sequential"):
        candidates += [*_of_targets(graph, recipe), *_of_passes(gpus), *_of_gptq(recipe)]
    left = dict(left_out(graph))
    candidates = [each for each in candidates if each.name not in left]
    single = [each for each in candidates if _changes_something(each, asked, recipe)]
    return (ASKED, *single)


def left_out(graph: ModelGraph) -> Iterator[tuple[str, str]]:
    """Names of strategies that are not tried for this model, and why."""
    for name, targets in finer_targets(graph).items():
        count = count_targets(graph, targets)
        if count > MANY_TARGETS or _is_huge(graph):
            yield name, f"{count:,} subgraphs take minutes; plan them with --sequential-targets {','.join(targets)}"
    for name, option in _UNEQUAL.items() if _is_huge(graph) else ():
        yield name, f"its layers differ in where their tensors lie, which takes minutes; plan it with {option}"


_UNEQUAL = {
    "activations on the GPU": "--offload-device gpu",
    "activations on a second GPU": "--offload-device gpu:1",
    "all of the job on the GPU": "--weights gpu --offload-device gpu",
    "next batch prefetched": "--prefetch",
}
"""Strategies under which no layer is copied from another (compress/context.py), and their options."""


def _is_huge(graph: ModelGraph) -> bool:
    """To walk all its layers takes minutes."""
    return count_targets(graph, ("Linear",)) > MANY_LINEARS


def _of_targets(graph: ModelGraph, recipe: Recipe) -> Iterator[Strategy]:
    """Other subgraphs. Where each target is trained to return what it did before, other targets learn other weights."""
    is_same = not any(spec.trains for spec in recipe.modifiers)
    finer = {"whole layers": None, **finer_targets(graph)}
    for name, targets in finer.items():
        changes = {"sequential_targets": targets, "targets_per_subgraph": 1}
        yield Strategy(name=name, changes=changes, is_same_result=is_same)
    yield Strategy(name="two targets a subgraph", changes={"targets_per_subgraph": 2}, is_same_result=is_same)


_ALL_ON_GPU = {"weights": "gpu", "offload_device": "gpu", "ram_for_weights_bytes": None}


def _of_passes(gpus: int) -> Iterator[Strategy]:
    yield Strategy(name="activations on the CPU", changes={"offload_device": "cpu"})
    yield Strategy(name="activations on the GPU", changes={"offload_device": "gpu"})
    if gpus > 1:
        yield Strategy(name="activations on a second GPU", changes={"offload_device": "gpu:1"})
        yield Strategy(name=f"{gpus} ranks under torchrun", changes={"ranks": gpus, "offload_device": "cpu"})
    yield Strategy(name="all of the job on the GPU", changes=_ALL_ON_GPU)
    yield Strategy(name="batch of 1", changes={"batch_size": 1})
    yield Strategy(name="batch of 4", changes={"batch_size": 4})
    yield Strategy(name="next batch prefetched", changes={"prefetch": True})
    yield Strategy(name="no prefetching", changes={"prefetch": False})
    yield Strategy(name="errors not propagated", changes={"propagate_error": False}, is_same_result=False)


def _of_gptq(recipe: Recipe) -> Iterator[Strategy]:
    if any(isinstance(spec, GPTQSpec) for spec in recipe.modifiers):
        yield Strategy(name="GPTQ one module at a time", recipe_changes={BATCHED: 1})


def _of_loading(graph: ModelGraph, ram_for_weights: int | None) -> Iterator[Strategy]:
    linear = {"linearized": True} if graph.fused_expert_bytes else {}
    if linear:
        yield Strategy(name="linear experts from the start", changes=linear)
    yield Strategy(name="weights on the CPU", changes={"weights": "cpu", "ram_for_weights_bytes": None})
    yield Strategy(name="weights on the GPU", changes={"weights": "gpu", "ram_for_weights_bytes": None})
    # models/offload.py: fused experts that lie on the disk are not planned
    disk = {**linear, "weights": "disk"}
    if ram_for_weights:
        changes = {**disk, "ram_for_weights_bytes": ram_for_weights}
        yield Strategy(name="weights in RAM as far as they go, the others on the disk", changes=changes)
    yield Strategy(name="all weights on the disk", changes={**disk, "ram_for_weights_bytes": None})


def _changes_something(strategy: Strategy, asked: Job, recipe: Recipe) -> bool:
    """It differs from the job as asked, and makes a job that can be asked for."""
    try:
        job = strategy.job(asked)
    except ValueError:  # pydantic: batch_size 4 of 2 samples
        return False
    return job != asked or strategy.recipe(recipe) != recipe
