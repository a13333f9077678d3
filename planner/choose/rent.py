"""The machines on which a job fits, the cheapest first, each with its best strategy; then those that just miss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.choose.estimator import Estimator
from planner.choose.fit import FITTING, Search
from planner.choose.schema import Choice, Offer, Rent
from planner.errors import JobError
from planner.hardware.demand import Demand, binding, fits, rank
from planner.hardware.machine import Machine
from planner.job import Job

NEAR = 2.0
"""A machine misses narrowly where what it lacks is less than so many times what it has."""
SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a machine must meet besides being able to do the job."""

    max_price: float | None = None
    """For one hour, in the catalogue's currency."""
    min_headroom: float = 0.0
    """The part of GPU memory and of RAM that must stay free: 0.1 for a tenth."""


def rent(estimator: Estimator, job: Job, machines: Sequence[Machine], wish: Wish) -> Rent:
    """The job on each of the machines. Raises JobError where no machine is left to try; what `plan` raises."""
    affordable = [machine for machine in machines if _is_affordable(machine, wish)]
    if not affordable:
        raise JobError("no machine of the catalogue has a price up to --max-price; leave it out, or name a catalogue")
    plan = estimator.trial(job).plan
    fitting: list[Offer] = []
    missing: list[Offer] = []
    for machine in affordable:
        choice = _best(Search(estimator, job, machine, with_budget=False), wish)
        does_fit = choice.fits in FITTING and _is_known(choice)
        (fitting if does_fit else missing).append(Offer(machine=machine, choice=choice))
    near = sorted((offer for offer in missing if _is_near(offer.choice)), key=_lacks)[:SHOWN]
    return Rent(
        model=plan.model,
        recipe=plan.recipe,
        job=job,
        machine=Machine(source="the catalogue"),
        notes=plan.notes,
        offers=tuple(sorted(fitting, key=_cost)),
        near_misses=tuple(near),
        is_ranked_by_price=any(offer.machine.price for offer in fitting),
    )


def _best(search: Search, wish: Wish) -> Choice:
    """The strategy that fits and moves the least; where none fits, the job as asked."""
    choices = [_with_headroom(choice, wish) for choice in search.quick_choices()]
    fitting = [choice for choice in choices if choice.fits in FITTING and _is_known(choice)]
    if fitting:
        return min(fitting, key=lambda choice: (not choice.is_same_result, rank(choice.fits), choice.moved_bytes))
    return min(choices, key=lambda choice: (choice.fails is not None, max(_over(choice), default=1.0)))


def _is_known(choice: Choice) -> bool:
    """Somebody said what there is of the card: without that, nothing is known of the machine."""
    return all(demand.outcome != "not said" for demand in choice.demands if demand.resource == "GPU")


def _with_headroom(choice: Choice, wish: Wish) -> Choice:
    """The choice, where too little stays free as a demand that is not met."""
    if not wish.min_headroom or choice.fails:
        return choice
    demands = tuple(_roomier(demand, wish.min_headroom) for demand in choice.demands)
    return choice.model_copy(update={"demands": demands, "fits": fits(demands), "binds": binding(demands)})


def _roomier(demand: Demand, headroom: float) -> Demand:
    """The demand on GPU or RAM with this part of the resource free while the job runs undisturbed."""
    wanted = int(demand.needs_bytes / (1 - headroom))
    is_met = demand.has_bytes is None or demand.outcome == "over" or demand.has_bytes >= wanted
    if demand.resource not in ("GPU", "RAM") or is_met:
        return demand
    return demand.model_copy(update={"outcome": "over", "at_least_bytes": wanted})


def _is_affordable(machine: Machine, wish: Wish) -> bool:
    """Without a wish, a machine without a price counts too."""
    if wish.max_price is None:
        return True
    return machine.price is not None and machine.price.amount <= wish.max_price


def _cost(offer: Offer) -> tuple[float, int, int]:
    """By price; machines without one come after, by GPU memory and RAM."""
    machine = offer.machine
    price = machine.price.amount if machine.price else float("inf")
    return price, (machine.gpu_memory_bytes or 0) * machine.gpus, machine.ram_bytes or 0


def _over(choice: Choice) -> Iterator[float]:
    """How many times too little there is of each resource that is over."""
    for demand in choice.demands:
        if demand.outcome == "over":
            yield demand.at_least_bytes / demand.has_bytes if demand.has_bytes else float("inf")


def _is_near(choice: Choice) -> bool:
    over = list(_over(choice))
    return not choice.fails and bool(over) and all(times < NEAR for times in over)


def _lacks(offer: Offer) -> float:
    return max(_over(offer.choice), default=1.0)
