"""Jobs, walked from load to save, for the tests of the pipelines."""

from collections.abc import Iterator
from typing import Any, Literal

from planner.compress.binding import make_program
from planner.compress.context import EVERYTHING, Context, Shortcuts
from planner.compress.holdings import Owner
from planner.compress.oneshot import simulate
from planner.compress.program import StepMemory
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.recipe.specs import ModifierSpec, Recipe
from tests import toys
from tests.toys import Toy

TOY = Toy()
LAYERS = tuple(f"model.layers.{i}" for i in range(3))
FORWARD = TOY.layer(0).forward_peak(TOY.tokens, TOY.itemsize, TOY.hidden)
WEIGHTS = TOY.layer(0).weight_bytes(TOY.itemsize)
CROSSING = TOY.hidden + TOY.mask + TOY.positions
"""What the head hands to the first layer; every later layer reads as much."""
MANY = 20


def steps(*specs: ModifierSpec, toy: Toy = TOY, shortcuts: Shortcuts | None = None, **options: Any) -> list[StepMemory]:
    job = toys.job(**({"samples": MANY} | options))
    return simulate(toy.program(*specs), Context(job, shortcuts=shortcuts)).steps


def with_events(graph: ModelGraph, recipe: Recipe, job: Job) -> Context:
    """The whole job, nothing of it folded, with its events."""
    program, _ = make_program(graph, recipe, job)
    context = Context(job, keep="timeline", shortcuts=EVERYTHING)
    simulate(program, context)
    return context


def births(context: Context, device: Literal["gpu", "cpu"] = "gpu") -> Iterator[tuple[Owner, int]]:
    """Owner and bytes of all that was taken."""
    timeline = context.ledger.timeline(device)
    return ((timeline.about[handle].owner, size) for handle, size, number in timeline.events if number > 0)


def gpu(found: list[StepMemory]) -> dict[tuple[str, str], int]:
    return {(step.phase, step.unit): step.gpu.bytes for step in found}


def cpu(found: list[StepMemory]) -> dict[tuple[str, str], int]:
    return {(step.phase, step.unit): step.cpu.bytes for step in found}
