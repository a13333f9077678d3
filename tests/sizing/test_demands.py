"""One judgement: what a plan asks of a machine, and what the machine says to that."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.compress.schema import GpuPeak, Verdict
from planner.hardware.demand import Demand, binding, demand, fits, rank
from planner.hardware.machine import Machine
from planner.job import Job
from planner.planning import plan
from planner.reports.demands import answer_line, demand_line
from planner.reports.summary import fit_line
from planner.sizing.demands import CardNeed, RamNeed, demands_on, judged
from planner.units import GIB
from tests.choose.small import CONFIG

RAM = RamNeed(resident=20 * GIB, must_have=16 * GIB, is_process=True)
CARD = CardNeed(device_total=8 * GIB, smallest=6 * GIB)


def on(ram: int | None = None, gpu: int | None = 24 * GIB, **fields: object) -> Machine:
    return Machine(ram_bytes=ram, gpu_memory_bytes=gpu, source="a test", **fields)


def of(resource: str, found: tuple[Demand, ...]) -> Demand:
    return next(each for each in found if each.resource == resource)


@pytest.mark.parametrize(("ram", "outcome"), [(21, "fits"), (18, "slow"), (15, "over"), (None, "not said")])
def test_between_its_two_figures_ram_makes_a_job_slow(ram: int | None, outcome: str) -> None:
    assert of("RAM", demands_on(on(ram and ram * GIB), CARD, RAM)).outcome == outcome


@given(st.integers(1, 64), st.integers(1, 64))
def test_more_ram_never_turns_a_yes_into_a_no(less: int, more: int) -> None:
    less, more = sorted((less, more))
    answers = [fits(demands_on(on(ram * GIB), CARD, RAM)) for ram in (less, more)]
    assert rank(answers[1]) <= rank(answers[0])


@given(st.lists(st.sampled_from(["fits", "slow", "over", "not said"]), min_size=1, max_size=5))
def test_all_together_are_as_good_as_the_worst_that_was_said(outcomes: list[str]) -> None:
    sizes = {"fits": 30, "slow": 15, "over": 5, "not said": None}
    found = [demand("RAM", 20, 10, sizes[each], "") for each in outcomes]
    said = [each for each in outcomes if each != "not said"]
    worst = next((each for each in ("over", "slow", "fits") if each in said), "not said")
    assert fits(found) == {"over": "no", "slow": "slow", "fits": "yes", "not said": "not said"}[worst]


def test_the_replay_decides_of_a_card_not_its_two_figures() -> None:
    out = CardNeed(device_total=8 * GIB, smallest=6 * GIB, runs_out=True)
    again = CardNeed(device_total=8 * GIB, smallest=6 * GIB, retries=2)
    assert of("GPU", demands_on(on(), out, RAM)).outcome == "over"
    assert of("GPU", demands_on(on(), again, RAM)).outcome == "slow"


def test_ranks_want_a_card_each_and_shared_memory_once() -> None:
    ranks = CardNeed(device_total=8 * GIB, smallest=6 * GIB, cards=4)
    shared = RamNeed(resident=60 * GIB, must_have=50 * GIB, is_process=True, shared=15 * GIB)
    few = demands_on(on(64 * GIB, gpus=2), ranks, shared)
    enough = demands_on(on(64 * GIB, gpus=4), ranks, shared)
    assert (of("GPU", few).outcome, of("GPU", enough).outcome) == ("over", "fits")
    assert of("shared memory", enough).has_bytes == 32 * GIB  # Linux's default: half of the RAM


def test_the_largest_part_of_what_there_is_binds() -> None:
    assert binding(demands_on(on(21 * GIB), CARD, RAM)) == "RAM"
    assert binding(demands_on(on(64 * GIB, 7 * GIB), CARD, RAM)) == "GPU"
    assert binding(demands_on(on(None, None), CARD, RAM)) is None


def test_a_machine_of_which_no_card_was_said_has_the_jobs_card() -> None:
    planned = plan(
        CONFIG, "gptq_w4a16", Job(samples=4, seq_len=128, gpu_memory_bytes=GIB // 2), machine=on(8 * GIB, None)
    )
    assert planned.machine is not None
    assert planned.machine.gpu_memory_bytes == GIB // 2
    assert planned.fits == "no"


def test_a_rule_of_thumb_is_not_judged() -> None:
    planned = plan(CONFIG, "gptq_w4a16", Job(samples=4, seq_len=128), method="rule-of-thumb")
    assert judged(planned, on(GIB)) == planned


# ---------------------------------------------------------------------- several cards
def said(machine: Machine, card: CardNeed = CARD, second: CardNeed | None = None) -> tuple[str, list[str]]:
    found = demands_on(machine, card, RAM, None, second)
    return answer_line(fits(found), found, None), [demand_line(each) for each in found]


def test_too_few_gpus_for_layers_that_are_spread_over_four_are_counted_and_no_size_is_missing() -> None:
    others = CardNeed(device_total=3 * GIB, smallest=2 * GIB, cards=3)
    answer, lines = said(on(64 * GIB, gpus=3), second=others)
    assert answer == "NO: 4 GPUs are needed, and the machine has 3"
    assert "the machine has 3 GPUs" in lines[1]
    assert said(on(64 * GIB, gpus=4), second=others)[0].startswith("YES")


def test_too_few_gpus_for_ranks_are_counted() -> None:
    answer, lines = said(on(64 * GIB, gpus=2), replace(CARD, cards=4))
    assert answer == "NO: 4 GPUs are needed, and the machine has 2"
    assert "the machine has 2 GPUs" in lines[0]


def test_of_one_card_that_is_not_there_the_size_is_said() -> None:
    answer, lines = said(on(64 * GIB, gpus=1), second=CARD)
    assert answer == "NO: no second GPU, and 6.000 GiB of one is needed"
    assert "the machine has 1 GPU (" in lines[1]
    answer, lines = said(on(64 * GIB, gpus=0))
    assert answer == "NO: no GPU, and 6.000 GiB of one is needed"
    assert "the machine has no GPU (" in lines[0]


def test_a_job_without_a_gpu_lacks_none() -> None:
    answer, lines = said(on(64 * GIB, gpus=0), CardNeed(device_total=0, smallest=0))
    assert answer.startswith("YES")
    assert "no GPU" not in lines[0]


def peak(reserved: int) -> GpuPeak:
    sizes = {"peak_reserved_bytes": reserved, "device_total_bytes": reserved, "smallest_card_bytes": reserved}
    return GpuPeak(peak_bytes=reserved, peak_allocated_bytes=reserved, peak_step=0, **sizes)


@pytest.mark.parametrize(
    ("second", "slow", "words"),
    [
        (0, ["GPU"], "cached memory 3 times, which"),
        (3, ["second GPU"], "cached memory 3 times on the second GPU, which"),
        (1, ["GPU", "second GPU"], "cached memory 3 times, 1 on the second GPU, which"),
    ],
)
def test_only_the_card_that_gives_memory_back_is_slow(second: int, slow: list[str], words: str) -> None:
    planned = plan(CONFIG, "gptq_w4a16", Job(samples=4, seq_len=128, gpu_memory_bytes=GIB))
    verdict = Verdict(outcome="gives back", retries=3, second_retries=second)
    changed = planned.model_copy(update={"verdict": verdict, "second_gpu": peak(GIB // 2), "other_gpus": 1})
    found = judged(changed, on(64 * GIB, GIB, gpus=2))
    cards = [each for each in found.demands if "GPU" in each.resource]
    assert [each.resource for each in cards if each.outcome == "slow"] == slow
    assert [each.resource for each in cards if "giving cached memory back" in each.what] == slow
    assert words in fit_line(found)
