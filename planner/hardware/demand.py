"""What a job asks of each resource of a machine, and what the machine says to that: records and their one judgement."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from planner.records import Record

Resource = Literal["GPU", "second GPU", "RAM", "shared memory", "disk", "Hub cache"]
"""Hub cache: the disk that it lies on, where that is not the one of the results."""
Outcome = Literal["fits", "slow", "over", "not said"]
"""slow: it works, with memory given back or files read again. not said: nobody said how much there is."""
Fits = Literal["yes", "slow", "not said", "no"]
"""All resources together, from best to worst."""

_AS_FITS: dict[Outcome, Fits] = {"fits": "yes", "slow": "slow", "not said": "not said", "over": "no"}
_ORDER: tuple[Fits, ...] = ("yes", "slow", "not said", "no")


class Demand(Record):
    """What a job asks of one resource of one machine."""

    resource: Resource
    needs_bytes: int = Field(description="with this much it runs undisturbed")
    at_least_bytes: int = Field(description="with less it fails; between the two it is slower")
    has_bytes: int | None = Field(description="what the machine has; null where nobody said")
    outcome: Outcome
    what: str = Field(description="what the two figures are, in words")
    gpus: int = Field(default=0, description="GPUs that a machine must have for it; 0: it is no GPU")
    has_gpus: int = Field(default=0, description="GPUs that the machine has; 0 too where it is no GPU")

    @property
    def share(self) -> float:
        """The part of the resource that the job cannot do without; infinite where there is none of it."""
        if not self.has_bytes:
            return float("inf") if self.at_least_bytes and self.has_bytes is not None else 0.0
        return self.at_least_bytes / self.has_bytes

    @property
    def lacks_gpus(self) -> bool:
        """There are too few GPUs, whatever their size."""
        return bool(self.at_least_bytes) and self.gpus > self.has_gpus


def demand(resource: Resource, needs: int, at_least: int, has: int | None, what: str) -> Demand:
    """What is asked of a resource of which the machine has so many bytes."""
    outcome = _outcome(needs, at_least, has)
    return Demand(
        resource=resource, needs_bytes=needs, at_least_bytes=at_least, has_bytes=has, outcome=outcome, what=what
    )


def _outcome(needs: int, at_least: int, has: int | None) -> Outcome:
    if has is None:
        return "not said"
    if has < at_least:
        return "over"
    return "slow" if has < needs else "fits"


def fits(demands: Sequence[Demand]) -> Fits:
    """All together: the worst of them, where what nobody said is no reason against it."""
    said = [each for each in demands if each.outcome != "not said"]
    return max((_AS_FITS[each.outcome] for each in said), key=_ORDER.index, default="not said")


def binding(demands: Sequence[Demand]) -> Resource | None:
    """The resource of which the largest part is needed; None where nobody said what there is of any."""
    said = [each for each in demands if each.has_bytes is not None and each.at_least_bytes]
    return max(said, key=lambda each: each.share).resource if said else None


def rank(answer: Fits) -> int:
    """0 for the best answer."""
    return _ORDER.index(answer)
