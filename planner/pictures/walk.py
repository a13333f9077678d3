"""A planned job, walked once more while somebody watches."""

from collections.abc import Sequence

from planner.compress.context import PLACED, PLACED_IN_PART, Context
from planner.compress.devices import card
from planner.compress.fit import MANY_MODULES
from planner.compress.ledger import Ledger
from planner.compress.oneshot import simulate
from planner.compress.program import Outcome, Program, StepMemory
from planner.compress.ranks import Rank
from planner.compress.schema import Plan
from planner.compress.watching import Watcher
from planner.cuda.allocator import OutOfMemory
from planner.cuda.build import CudaBuild


def walked(program: Program, plan: Plan, watcher: Watcher) -> Sequence[StepMemory]:
    """The plan's steps again, as far as they come, shown to the watcher.

    On the plan's card; where the job runs out of memory there, on one with room, which the plan's steps are of then.
    """
    job, context = plan.job, plan.job.cuda_context_bytes
    rank = Rank(plan.ranks.simulated, job.ranks) if plan.ranks else None
    is_strict = plan.verdict is not None and plan.verdict.outcome != "out of memory"
    gpu = card(job.gpu_memory_bytes, context, job.allocator_settings, is_strict=is_strict)
    second = card(job.gpu_memory_bytes, context, job.allocator_settings) if program.second_gpu else None
    modules = sum(len(unit.modules) for run in program.runs for unit in run.units)
    shortcuts = PLACED_IN_PART if modules > MANY_MODULES else PLACED
    ledger, outcome = Ledger(gpu=gpu, second=second, watcher=watcher), Outcome()
    try:
        state = Context(job, ledger, shortcuts=shortcuts, cuda=CudaBuild(sm=job.capability), rank=rank)
        simulate(program, state, outcome)
    except OutOfMemory:
        pass  # the second card's figures are the plan's, and the picture says so where steps are missing
    return outcome.steps
