"""Toy jobs, walked from load to save, for the tests of the pipelines."""

from typing import Any

from planner.compress.context import Context, Shortcuts
from planner.compress.oneshot import simulate
from planner.compress.program import StepMemory
from planner.recipe.specs import ModifierSpec
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


def gpu(found: list[StepMemory]) -> dict[tuple[str, str], int]:
    return {(step.phase, step.unit): step.gpu.bytes for step in found}


def cpu(found: list[StepMemory]) -> dict[tuple[str, str], int]:
    return {(step.phase, step.unit): step.cpu.bytes for step in found}
