"""A rehearsed job beside its plan, step by step."""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.compress.schema import Plan, Step
from planner.units import MIB

TRIFLE = 4 * MIB
"""Bytes that no step is blamed for."""
NOT_PLANNED = ("between", "script", "load", "save")


@dataclass(frozen=True)
class Difference:
    """One figure of one step."""

    step: str
    figure: str
    rehearsed: int
    planned: int

    @property
    def share(self) -> float:
        """Planned by rehearsed, less one; 0 for trifles."""
        if abs(self.planned - self.rehearsed) <= TRIFLE:
            return 0.0
        return self.planned / max(1, self.rehearsed) - 1


def differences(rehearsed: Plan, planned: Plan) -> Iterator[Difference]:
    """Every figure of every step that both have."""
    plans = {key(step): step for step in planned.steps}
    for step in rehearsed.steps:
        other = plans.get(key(step))
        if step.phase in NOT_PLANNED or other is None:
            continue
        name = f"{step.subgraph or ''} {step.phase}".strip()
        for figure, one, two in (
            ("requested", step.gpu.peak_bytes, other.gpu.peak_bytes),
            ("allocated", step.gpu.peak_allocated_bytes, other.gpu.peak_allocated_bytes),
            ("reserved", step.gpu.peak_reserved_bytes or 0, other.gpu.peak_reserved_bytes or 0),
            ("cpu", step.cpu.peak_bytes, other.cpu.peak_bytes),
        ):
            yield Difference(name, figure, one, two)


def key(step: Step) -> tuple[str | None, int | None, str]:
    """What makes a step the same in both."""
    return step.modifier, step.subgraph, step.phase


def worst(rehearsed: Plan, planned: Plan) -> dict[str, Difference]:
    """The largest difference of each figure."""
    found: dict[str, Difference] = {}
    for each in differences(rehearsed, planned):
        if each.figure not in found or abs(each.share) > abs(found[each.figure].share):
            found[each.figure] = each
    return found
