"""What a simulated job asks of each resource of a machine, and what the machine says to that."""

from collections.abc import Sequence

from planner.choose.schema import Demand, Fits, Outcome, Resource
from planner.hardware.machine import Machine

_AS_FITS: dict[Outcome, Fits] = {"fits": "yes", "slow": "slow", "not said": "not said", "over": "no"}
_ORDER: tuple[Fits, ...] = ("yes", "slow", "not said", "no")


def demand(resource: Resource, needs: int, at_least: int, has: int | None, what: str) -> Demand:
    """What is asked of a resource of which the machine has so many bytes."""
    return Demand(
        resource=resource,
        needs_bytes=needs,
        at_least_bytes=at_least,
        has_bytes=has,
        outcome=_outcome(needs, at_least, has),
        what=what,
    )


def _outcome(needs: int, at_least: int, has: int | None) -> Outcome:
    if has is None:
        return "not said"
    if has < at_least:
        return "over"
    return "slow" if has < needs else "fits"


def fits(demands: Sequence[Demand]) -> Fits:
    """All together: the worst of them, where what nobody said is no reason against it."""
    said = [demand for demand in demands if demand.outcome != "not said"]
    if not said:
        return "not said"
    return max((_AS_FITS[demand.outcome] for demand in said), key=_ORDER.index)


def binding(demands: Sequence[Demand]) -> Resource | None:
    """The resource of which the largest part is needed; None where nobody said what there is of any."""
    said = [demand for demand in demands if demand.has_bytes is not None and demand.at_least_bytes]
    return max(said, key=lambda demand: demand.share).resource if said else None


def rank(answer: Fits) -> int:
    """0 for the best answer."""
    return _ORDER.index(answer)


def ram_of(machine: Machine) -> int | None:
    """RAM that a job may have: what is free where somebody looked, else all of it."""
    return machine.ram_bytes if machine.ram_available_bytes is None else machine.ram_available_bytes
