"""Does a plan fit, and which step says so."""

from typing import Literal

from planner.compress.schema import Plan, Step
from planner.units import GIB

Fit = Literal["fits", "tight", "over"]

# Where the allocator was not simulated: bytes that a card must hold besides tensors, for the CUDA context
# (0.3 to 0.6 GB) and what the caching allocator loses to fragmentation. A plan that leaves less free is tight.
BREATHING_SPACE = 1 * GIB

_OUTCOMES: dict[str, Fit] = {"through": "fits", "gives back": "tight", "out of memory": "over"}
_FITS: dict[str, Fit] = {"yes": "fits", "slow": "tight", "no": "over"}


def peak_gpu_step(plan: Plan) -> Step | None:
    """The step with the highest GPU memory; None when the method knows no steps."""
    return next((step for step in plan.steps if step.index == plan.gpu.peak_step), None)


def peak_cpu_step(plan: Plan) -> Step | None:
    """The step with the highest CPU memory; None when the method knows no steps."""
    return next((step for step in plan.steps if step.index == plan.cpu.peak_step), None)


def runs_out(step: Step, plan: Plan) -> bool:
    """Whether the job runs out of GPU memory here: in the replay at the card's size, or by its tensors alone."""
    if plan.verdict is not None:
        return step.index == plan.verdict.step
    return step.gpu.peak_allocated_bytes > plan.job.gpu_memory_bytes


def first_over(plan: Plan) -> Step | None:
    """The first step that would run out of GPU memory; None when every step fits."""
    return next((step for step in plan.steps if runs_out(step, plan)), None)


def verdict(plan: Plan) -> Fit:
    """Whether the machine can do it: `tight` where only slowly. Of what nobody said, the card alone decides."""
    if plan.fits in _FITS:
        return _FITS[plan.fits]
    if plan.verdict is not None:
        return _OUTCOMES[plan.verdict.outcome]
    spare = plan.job.gpu_memory_bytes - plan.gpu.peak_allocated_bytes
    if spare < 0:
        return "over"
    return "tight" if spare < BREATHING_SPACE else "fits"
