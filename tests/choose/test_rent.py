"""rent: machines on which a job fits, the cheapest first; near misses by what they lack."""

from functools import cache
from typing import Any

import pytest

from planner.choose.fit import FITTING, Search
from planner.choose.rent import Wish, rent
from planner.choose.schema import Choice, Rent
from planner.choose.strategies import ASKED, Strategy, strategy_of
from planner.errors import JobError
from planner.hardware.demand import rank
from planner.hardware.machine import HourlyPrice, Machine
from planner.job import Job
from planner.planning import plan
from planner.reports.rent import conclusion, render
from planner.units import GIB, MIB
from tests.choose.small import CONFIG, JOB, LARGE, MIXTURE, estimator


@cache
def needs() -> dict[str, int]:
    """Bytes by resource that the job takes."""
    return {demand.resource: demand.at_least_bytes for demand in estimator().choice(JOB, ASKED, LARGE).demands}


def machine(name: str, price: float | None, gpu: int | None = 24 * GIB, ram: int = 64 * GIB, **more: Any) -> Machine:
    cost = None if price is None else HourlyPrice(amount=price, currency=more.pop("currency", "USD"))
    return Machine(name=name, gpu_memory_bytes=gpu, ram_bytes=ram, price=cost, source="a test", **more)


def found(*machines: Machine, **wish: Any) -> Rent:
    return rent(estimator(), JOB, machines, Wish(**wish))


def names(answer: Rent) -> list[str | None]:
    return [offer.machine.name for offer in answer.offers]


def test_the_cheapest_comes_first_and_one_without_a_price_last() -> None:
    answer = found(machine("dear", 3.0), machine("free", None), machine("cheap", 0.5))
    assert names(answer) == ["cheap", "dear", "free"]
    assert answer.is_ranked_by_price


def test_every_offer_has_the_strategy_that_moves_least_of_those_that_fit() -> None:
    (offer,) = found(machine("large", 1.0)).offers
    assert offer.choice.fits == "yes"
    assert offer.choice.strategy == "all of the job on the GPU"


def test_a_machine_that_lacks_a_little_is_a_near_miss_by_what_it_lacks_least() -> None:
    answer = found(machine("tiny", 0.1, gpu=needs()["GPU"] * 7 // 10), machine("none", 0.1, gpu=64 * MIB))
    assert answer.offers == ()
    (near,) = answer.near_misses
    assert near.machine.name == "tiny"
    assert near.choice.demand("GPU") is not None
    assert near.choice.strategy != "all of the job on the GPU"


def test_an_offer_near_the_limit_of_a_card_is_what_a_plan_says_of_it() -> None:
    """On this card the job that is all on it gets through by the shorter walks of a search, and not by a plan's."""
    job, card = Job(samples=64, seq_len=512), machine("limit", 1.0, gpu=2040 * MIB)
    trials = estimator(config=MIXTURE)
    search = Search(trials, job, card, with_budget=False)
    (all_on_it,) = [each for each in search.quick_choices() if each.strategy == "all of the job on the GPU"]
    assert (all_on_it.fits, search.planned(strategy_of(all_on_it)).fits) == ("slow", "no")

    (offer,) = rent(trials, job, [card], Wish()).offers
    assert offer.choice.strategy != all_on_it.strategy
    planned = plan(MIXTURE, "gptq_w4a16", strategy_of(offer.choice).job(job), machine=card)
    assert planned.fits == offer.choice.fits != "no"


def test_a_machine_of_which_nobody_said_the_card_is_no_offer() -> None:
    assert names(found(machine("unknown", 0.1, gpu=None), machine("known", 2.0))) == ["known"]


def test_wishes_leave_machines_out() -> None:
    machines = [machine("cheap", 0.5, ram=needs()["RAM"] + 64 * MIB), machine("dear", 3.0)]
    assert names(found(*machines, max_price=1.0)) == ["cheap"]
    roomy = found(*machines, min_headroom=0.5)
    assert names(roomy) == ["dear"]
    assert all(demand.share <= 0.5 for demand in roomy.offers[0].choice.demands if demand.resource in ("GPU", "RAM"))
    with pytest.raises(JobError, match="--max-price"):
        found(*machines, max_price=0.01)


# ---------------------------------------------------------------------- two currencies
def in_euro(name: str, price: float) -> Machine:
    return machine(name, price, currency="EUR")


def test_amounts_of_two_currencies_are_never_compared() -> None:
    machines = [machine("dollars", 0.5), in_euro("dear", 3.0), in_euro("cheap", 0.4)]
    answer = found(*machines)
    assert names(answer) == ["cheap", "dear", "dollars"]
    assert "cheap, 0.40 EUR" in conclusion(answer)
    assert "; or dollars, 0.50 USD" in conclusion(answer)
    with pytest.raises(JobError, match="prices are in EUR, USD; say which by --currency"):
        found(*machines, max_price=1.0)
    assert names(found(*machines, max_price=1.0, currency="EUR")) == ["cheap"]
    with pytest.raises(JobError, match="prices are in EUR, USD"):
        found(*machines, currency="CHF")


# ---------------------------------------------------------------------- several strategies together
def test_a_machine_on_which_only_strategies_together_fit_is_an_offer() -> None:
    job = JOB.model_copy(update={"batch_size": 16})
    small = machine("small", 1.0, gpu=needs()["GPU"] + 64 * MIB, ram=needs()["RAM"] - 120 * MIB)
    assert not any(choice.fits == "yes" for choice in Search(estimator(), job, small).quick_choices())
    (offer,) = rent(estimator(), job, [small], Wish()).offers
    assert len(offer.choice.changes) > 1
    assert "batch of 1" in offer.choice.strategy


def test_at_80_columns_names_and_figures_of_a_machine_stay_whole() -> None:
    name = "8x_RTX-PRO-6000-BLACKWELL_SECURE"
    large = machine(name, 13.0, ram=2048 * GIB, cloud="runpod", gpus=8).model_copy(
        update={"gpu": "RTX PRO 6000 Server"}
    )
    lines = render(found(large, machine("tiny", 0.1, gpu=needs()["GPU"] * 7 // 10)), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = (place for place, line in enumerate(lines) if line.startswith(f"runpod {name} "))
    assert "13.00 USD" in lines[row]
    assert " of 24.00" in lines[row]
    assert lines[row + 1].startswith("  8 x RTX PRO 6000 Server: ")


# ---------------------------------------------------------------------- no more is tried than may be the best
SIZES = [(gpu, ram) for gpu in (1200, 2000, 8000) for ram in (3000, 64000)]


def test_an_offer_is_the_best_of_all_strategies_each_judged_as_a_plan_does() -> None:
    trials, job = estimator(config=MIXTURE), Job(samples=64, seq_len=512)
    chosen = set[str]()
    for gpu, ram in SIZES:
        card = machine(f"{gpu} and {ram}", 1.0, gpu=gpu * MIB, ram=ram * MIB, sm=90 if gpu == 2000 else 75)
        search = Search(trials, job, card, with_budget=False)
        every = [search.planned(each) for each in (ASKED, *search.candidates) if search.elsewhere(each)]
        fitting = [each for each in every if each.fits in FITTING]
        offers = rent(trials, job, [card], Wish()).offers
        if not fitting:
            assert all(len(offer.choice.changes) > 1 for offer in offers)  # none, or several together
            continue
        best = min(fitting, key=lambda each: (not each.is_same_result, rank(each.fits), each.moved_bytes))
        assert [offer.choice for offer in offers] == [best]
        chosen.add(best.strategy)
    assert len(chosen) > 1


def test_a_machine_on_whose_card_an_operator_was_not_measured_hides_no_other() -> None:
    narrow = {**CONFIG, "hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 64}
    machines = [machine("old", 0.1, sm=75), machine("new", 1.0, sm=80)]
    answer = rent(estimator("wanda_50", narrow), Job(samples=8, seq_len=128), machines, Wish())
    assert names(answer) == ["new"]
    (note,) = (note.text for note in answer.notes if note.text.startswith("Not tried"))
    assert note.startswith("Not tried on 1 machine: ")
    assert note.endswith(" on sm_75 was not measured")


def test_a_strategy_that_could_be_no_better_is_not_tried_on_a_machine_s_card(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[str]()
    own = Search.planned

    def planned(search: Search, strategy: Strategy) -> Choice:
        tried.append(strategy.name)
        return own(search, strategy)

    monkeypatch.setattr(Search, "planned", planned)
    (offer,) = found(machine("large", 1.0)).offers
    assert tried == [offer.choice.strategy] == ["all of the job on the GPU"]

    tried.clear()
    (offer,) = found(machine("small", 1.0, gpu=needs()["GPU"] + 64 * MIB)).offers
    assert len(Search(estimator(), JOB, LARGE).candidates) > len(tried) > 1
    assert tried.count(offer.choice.strategy) == 1
