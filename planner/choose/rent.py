"""The machines on which a job fits, the cheapest first, each with its best strategy; then those that just miss."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from planner.choose.estimator import Estimator
from planner.choose.fit import FITTING, Search
from planner.choose.schema import Choice, Offer, Rent
from planner.choose.strategies import ASKED, Strategy
from planner.errors import JobError, UnsupportedError
from planner.hardware.demand import Demand, binding, fits, rank
from planner.hardware.machine import Machine
from planner.job import Job
from planner.notes import Note

NEAR = 2.0
"""A machine misses narrowly where what it lacks is less than so many times what it has."""
IN_REACH = 4.0
"""And may do it by several strategies together where it is less than so many times."""
SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a machine must meet besides being able to do the job."""

    max_price: float | None = None
    """For one hour, in `currency`."""
    currency: str | None = None
    """Only machines with a price in it; None: as they are."""
    min_headroom: float = 0.0
    """The part of GPU memory and of RAM that must stay free: 0.1 for a tenth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prospect:
    """A strategy on a machine, by what is known of it without the machine's card."""

    is_same_result: bool
    moved_bytes: int
    is_over: bool
    """It does not fit, whatever the card is."""
    judge: Callable[[], Choice]
    """What it comes to as a plan has it, without its smallest card."""

    @property
    def preference(self) -> tuple[bool, int, int]:
        """The best that its choice's may be."""
        return not self.is_same_result, 0, self.moved_bytes

    def may_beat(self, choice: Choice) -> bool:
        """False where it comes to nothing better than this one, which fits, in any case."""
        return not self.is_over and self.preference < _preference(choice)


def rent(estimator: Estimator, job: Job, machines: Sequence[Machine], wish: Wish) -> Rent:
    """The job on each of the machines. Raises JobError where no machine is left to try; what `plan` raises."""
    _check_currency(machines, wish)
    affordable = [machine for machine in machines if _is_affordable(machine, wish)]
    if not affordable:
        what = "a price up to --max-price" if wish.max_price is not None else f"a price in {wish.currency}"
        raise JobError(f"no machine of the catalogue has {what}; leave that out, or name a catalogue")
    plans = [estimator.on_gpus(gpus).trial(job).plan for gpus in sorted({each.gpus for each in affordable})]
    plan, notes = plans[0], dict.fromkeys(note for each in plans for note in each.notes)
    offers, left_out = list[Offer](), Counter[str]()
    for machine in affordable:
        try:
            choice = _best(Search(estimator, job, machine, with_budget=False), wish)
        except UnsupportedError as error:  # of operators on its card's generation
            left_out[str(error)] += 1
        else:
            offers.append(Offer(machine=machine, choice=choice))
    notes |= dict.fromkeys(_not_tried(count, why) for why, count in left_out.items())
    missing = [offer for offer in offers if not _does_fit(offer.choice)]
    near = sorted((offer for offer in missing if _is_near(offer.choice)), key=_lacks)[:SHOWN]
    fitting = [offer for offer in offers if _does_fit(offer.choice)]
    return Rent(
        model=plan.model,
        recipe=plan.recipe,
        job=job,
        machine=Machine(source="the catalogue"),
        notes=tuple(notes),
        offers=tuple(sorted(fitting, key=_cost)),
        near_misses=tuple(near),
        is_ranked_by_price=any(offer.machine.price for offer in fitting),
    )


def _not_tried(count: int, why: str) -> Note:
    machines = "1 machine" if count == 1 else f"{count} machines"
    return Note(kind="job", text=f"Not tried on {machines}: {why}")


def _best(search: Search, wish: Wish) -> Choice:
    """The strategy that fits and moves the least, or several together; where none fits, what comes closest."""
    tried: list[Choice] = []
    for prospects in _in_turn(search, tried):
        judged = _judged(prospects, wish)
        if fitting := list(filter(_does_fit, judged)):
            return min(fitting, key=_preference)
        tried += judged
    return min(tried, key=lambda choice: (choice.fails is not None, max(_over(choice), default=1.0)))


def _judged(prospects: Sequence[Prospect], wish: Wish) -> list[Choice]:
    """The strategies as plans judge them; all, unless one is better than those that are left could be.

    To judge one may take a simulation on the machine's card.
    """
    judged: dict[Prospect, Choice] = {}
    for prospect in sorted(prospects, key=lambda each: (each.is_over, each.preference)):
        fitting = filter(_does_fit, judged.values())
        best = min(fitting, key=_preference, default=None)
        if best is not None and not prospect.may_beat(best):
            break
        judged[prospect] = _with_headroom(prospect.judge(), wish)
    return [judged[each] for each in prospects if each in judged]


def _in_turn(search: Search, tried: Sequence[Choice]) -> Iterator[list[Prospect]]:
    """What is looked at where nothing before it fits."""
    hopeless = [each for each in search.candidates if search.is_hopeless(each)]
    hopeful = [ASKED, *(each for each in search.candidates if each not in hopeless)]
    for is_same_result in (True, False):  # another compressed model is taken only where this one is not to be had
        yield _prospects(search, [each for each in hopeful if each.is_same_result is is_same_result])
    yield _prospects(search, [each for each in hopeless if not search.is_hopeless(each, IN_REACH)])  # may be near
    if any(_is_near(choice, IN_REACH) for choice in tried):
        yield _prospects(search, search.combinations())


def _prospects(search: Search, strategies: Sequence[Strategy]) -> list[Prospect]:
    """Of the strategies that can be planned."""
    trials = ((each, search.elsewhere(each)) for each in strategies)
    return [
        Prospect(
            is_same_result=strategy.is_same_result,
            moved_bytes=trial.moved_bytes,
            is_over=bool(trial.fails) or fits(trial.host_demands(search.machine)) == "no",
            judge=partial(search.planned, strategy),
        )
        for strategy, trial in trials
        if trial is not None
    ]


def _preference(choice: Choice) -> tuple[bool, int, int]:
    """Smaller is better."""
    return not choice.is_same_result, rank(choice.fits), choice.moved_bytes


def _does_fit(choice: Choice) -> bool:
    return choice.fits in FITTING and _is_known(choice)


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
    if wish.max_price is None and wish.currency is None:
        return True
    if machine.price is None or wish.currency not in (None, machine.price.currency):
        return False
    return wish.max_price is None or machine.price.amount <= wish.max_price


def _check_currency(machines: Sequence[Machine], wish: Wish) -> None:
    """Amounts of two currencies are no numbers to compare."""
    currencies = sorted({machine.price.currency for machine in machines if machine.price})
    if wish.max_price is not None and wish.currency is None and len(currencies) > 1:
        raise JobError(
            f"--max-price {wish.max_price:g}: prices are in {', '.join(currencies)}; say which by --currency"
        )
    if wish.currency is not None and wish.currency not in currencies:
        raise JobError(f"--currency {wish.currency}: prices are in {', '.join(currencies) or 'no currency'}")


def _cost(offer: Offer) -> tuple[bool, str, float, int, int]:
    """By price, one currency after the other; machines without one come after, by GPU memory and RAM."""
    machine, price = offer.machine, offer.machine.price
    currency, amount = (price.currency, price.amount) if price else ("", 0.0)
    return price is None, currency, amount, (machine.gpu_memory_bytes or 0) * machine.gpus, machine.ram_bytes or 0


def _over(choice: Choice) -> Iterator[float]:
    """How many times too little there is of each resource that is over."""
    for demand in choice.demands:
        if demand.outcome == "over":
            yield demand.at_least_bytes / demand.has_bytes if demand.has_bytes else float("inf")


def _is_near(choice: Choice, near: float = NEAR) -> bool:
    over = list(_over(choice))
    return not choice.fails and bool(over) and all(times < near for times in over)


def _lacks(offer: Offer) -> float:
    return max(_over(offer.choice), default=1.0)
