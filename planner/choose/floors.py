"""What a way to run a job takes at least, known before it is planned: a machine that has less need not be tried.

To plan a strategy costs a simulation. Two bounds cost none. Weights that lie on one card take their bytes of it. And
when the result is saved, activations are gone: a strategy that leaves weights where they were takes of RAM then what
the job as asked takes, whatever it does to batches, targets and activations.
"""

from collections.abc import Iterator

from planner.choose.strategies import Strategy
from planner.compress.schema import Plan
from planner.hardware.machine import Machine
from planner.sizing.demands import ram_of
from planner.units import MIB

PLACING = frozenset({"weights", "linearized", "ram_for_weights_bytes", "ranks"})
"""Fields that decide where weights lie in RAM, and how often."""
OF_MALLOC = 256 * MIB
"""More than malloc keeps of what a step's temporaries took, which strategies do change (sizing/host_parts.py
kept_by_malloc)."""


def times_too_little(strategy: Strategy, asked: Plan, machine: Machine) -> float:
    """How many times what the machine has of a resource the strategy takes of it at least, where that is known: above 1
    it cannot fit. `asked` is the plan of the job as asked."""
    return max(_shares(strategy, asked, machine), default=0.0)


def _shares(strategy: Strategy, asked: Plan, machine: Machine) -> Iterator[float]:
    card, ram = machine.gpu_memory_bytes, ram_of(machine)
    if card and strategy.changes.get("weights", asked.job.weights) == "gpu":
        yield asked.model.bytes / card
    if ram and not PLACING & strategy.changes.keys():
        yield _ram_to_save(asked) / ram


def _ram_to_save(asked: Plan) -> int:
    """RAM without which the result cannot be saved; 0 where the process is not sized, or has ranks beside it."""
    if asked.host is None or asked.job.ranks > 1:
        return 0
    saving = (phase.must_have_bytes for phase in asked.host.phases if phase.phase == "save")
    return max(0, max(saving, default=0) - OF_MALLOC)
