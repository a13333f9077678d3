"""fit: yes or no first, what binds, and changes that were planned."""

import shlex
from collections.abc import Callable

import pytest

from planner.choose.estimator import Estimator
from planner.choose.fit import Search
from planner.choose.schema import Choice
from planner.choose.strategies import ASKED
from planner.cli import main
from planner.hardware.demand import Resource
from planner.hardware.machine import Machine
from planner.job import Job
from planner.planning import plan
from planner.reports.choose import render_strategies
from planner.units import GIB, MIB
from tests.choose.small import CONFIG, JOB, LARGE, MIXTURE, estimator, machine, search

FITTING = ("yes", "slow")
ALL_ON_CARD = Job(samples=64, seq_len=512, weights="gpu", offload_device="gpu")
NEAR_LIMIT = machine(2040 * MIB)
"""On this card the mixture's job that is all on it gets through by shorter walks than a plan's, and not by these."""


def asks(resource: Resource, job: Job = JOB, recipe: str = "gptq_w4a16") -> int:
    demand = estimator(recipe).choice(job, ASKED, LARGE).demand(resource)
    assert demand is not None
    return demand.at_least_bytes


# ---------------------------------------------------------------------- one judgement
@pytest.mark.parametrize("gpu", [1 * GIB, 2 * GIB, 80 * GIB])
@pytest.mark.parametrize("ram", [1 * GIB, 4 * GIB, None])
def test_fit_says_what_plan_says_of_the_same_machine(gpu: int, ram: int | None) -> None:
    on = machine(gpu, ram)
    answer, planned = estimator().choice(JOB.on(on), ASKED, on), plan(CONFIG, "gptq_w4a16", JOB, machine=on)
    assert answer.fits == planned.fits
    said = {demand.resource: demand for demand in planned.demands}
    for demand in answer.demands:
        assert demand.outcome == said[demand.resource].outcome
        # the smallest card is looked for by halves, from another start
        assert demand.at_least_bytes == pytest.approx(said[demand.resource].at_least_bytes, rel=0.01)


def test_a_large_machine_fits_and_needs_no_fix() -> None:
    answer = search(LARGE).fit()
    assert (answer.fits, answer.fixes, answer.closest) == ("yes", (), ())


def test_the_resource_of_which_the_largest_part_is_needed_binds() -> None:
    assert search(machine(asks("GPU") + 100 * MIB)).fit().answer.binds == "GPU"
    assert search(machine(ram=asks("RAM") + 100 * MIB)).fit().answer.binds == "RAM"


def test_what_nobody_said_is_no_reason_against_it() -> None:
    answer = search(machine(ram=None)).fit().answer
    assert answer.fits == "yes"
    assert {demand.resource for demand in answer.demands if demand.outcome == "not said"} == {"RAM", "disk"}


def test_a_machine_without_a_card_says_no() -> None:
    answer = search(Machine(gpus=0, ram_bytes=64 * GIB, source="a test")).fit()
    assert answer.fits == "no"
    assert [demand.resource for demand in answer.answer.demands if demand.outcome == "over"] == ["GPU"]


def test_fewer_samples_never_need_more_ram() -> None:
    trials = estimator()
    needs = [trials.trial(JOB.model_copy(update={"samples": n})).plan.host for n in (1, 2, 3, 16, 100, 1024, 4096)]
    for figure in ("peak_resident_bytes", "peak_must_have_bytes"):
        sizes = [getattr(host, figure) for host in needs]
        assert sizes == sorted(sizes)


def test_nothing_is_looked_for_where_nobody_said_what_there_is() -> None:
    answer = search(Machine(source="a test")).fit()
    assert (answer.fits, answer.fixes, answer.closest) == ("not said", (), ())


def test_a_job_that_fails_by_a_plan_alone_is_told_what_leaves_the_result_alone() -> None:
    """By the shorter walks of the search nothing is over here."""
    answer = search(NEAR_LIMIT, ALL_ON_CARD, config=MIXTURE).fit()
    assert answer.fits == "no"
    assert answer.fixes
    assert all(fix.is_same_result and fix.fits in FITTING for fix in answer.fixes)


def test_the_largest_value_is_one_that_a_plan_lets_through() -> None:
    job, on = ALL_ON_CARD, NEAR_LIMIT
    largest = search(on, job, config=MIXTURE).largest("samples")
    assert largest.value is not None
    fitting, larger = (job.model_copy(update={"samples": largest.value + more}) for more in (0, 1))
    assert plan(MIXTURE, "gptq_w4a16", fitting, machine=on).fits in FITTING
    assert plan(MIXTURE, "gptq_w4a16", larger, machine=on).fits == "no"


# ---------------------------------------------------------------------- fixes
def too_large_a_batch() -> tuple[Machine, Job]:
    """A card for a batch of one."""
    return machine(asks("GPU") + 8 * MIB), JOB.model_copy(update={"batch_size": 16})


TOO_SMALL: dict[str, Callable[[], tuple[Machine, Job]]] = {
    "a card that lacks a little": lambda: (machine(asks("GPU") - 24 * MIB), JOB),
    "RAM for half of the samples": lambda: (machine(ram=asks("RAM", Job(samples=512, seq_len=512)) + 4 * MIB), JOB),
    "a card for a batch of one": too_large_a_batch,
}


@pytest.mark.parametrize("lacking", TOO_SMALL.values(), ids=TOO_SMALL)
def test_every_fix_is_planned_and_does_what_it_says(
    lacking: Callable[[], tuple[Machine, Job]], capsys: pytest.CaptureFixture[str]
) -> None:
    on, job = lacking()
    answer = search(on, job).fit()
    assert answer.fits == "no"
    assert answer.fixes, "something makes it fit"
    for fix in answer.fixes:
        assert fix.fits in FITTING
        assert_command_agrees(fix, on, job)
    capsys.readouterr()


def assert_command_agrees(fix: Choice, on: Machine, job: Job) -> None:
    """The fix's own job, planned apart from the search, fits the machine too."""
    changed = Job.model_validate({**job.model_dump(exclude_unset=True), **fix.changes})
    if not fix.recipe_changes:
        assert plan(CONFIG, "gptq_w4a16", changed, machine=on).fits == fix.fits


def test_the_command_of_a_fix_is_accepted_and_says_yes(capsys: pytest.CaptureFixture[str]) -> None:
    trials, job = Estimator("qwen3-0.6b", "gptq_w4a16"), Job(samples=256, layers=2)
    needed = trials.choice(job, ASKED, LARGE).demand("RAM")
    assert needed is not None
    answer = Search(trials, job, machine(ram=needed.at_least_bytes - GIB)).fit()
    assert answer.fits == "no"
    fix = next(fix for fix in answer.fixes if not fix.recipe_changes)
    words = shlex.split(fix.command)
    assert words[0] == "planner"
    assert main([*words[1:], "--check", "--format", "json"]) == 0
    capsys.readouterr()


def test_changes_that_keep_the_result_come_before_fewer_samples() -> None:
    fixes = search(*too_large_a_batch()).fit().fixes
    assert fixes[0].is_same_result
    assert [fix.is_same_result for fix in fixes] == sorted((fix.is_same_result for fix in fixes), reverse=True)


def test_few_long_samples_are_told_to_be_shorter() -> None:
    job = Job(samples=16, seq_len=2048)
    assert search(machine(asks("GPU", job) * 9 // 10), job).fit().fixes


def test_where_no_change_helps_alone_several_do() -> None:
    job = JOB.model_copy(update={"batch_size": 16})
    on = machine(asks("GPU") + 8 * MIB, asks("RAM", Job(samples=384, seq_len=512)) + 4 * MIB)
    fixes = search(on, job).fit().fixes
    assert fixes
    assert all(len(fix.changes) > 1 for fix in fixes)


def test_ways_that_take_what_the_job_as_asked_takes_are_no_rows() -> None:
    answer = search(LARGE, Job(samples=64, seq_len=512)).strategies()
    (idle,) = (note.text for note in answer.notes if note.text.startswith("The same figures"))
    assert idle.endswith(": weights in RAM as far as they go, the others on the disk.")
    assert "weights in RAM as far as they go, the others on the disk" not in {c.strategy for c in answer.choices}


def test_where_weights_wait_on_the_host_does_not_matter_to_a_card() -> None:
    asked = JOB.model_copy(update={"samples": 64})
    on = machine(asks("GPU", asked) - 32 * MIB)
    both, alone = search(on, asked), Search(Estimator(CONFIG, "gptq_w4a16"), asked, on)
    disk = next(each for each in both.candidates if each.name == "all weights on the disk")
    shared = [both.estimator.trial(both.asked, each).on(on.gpu_memory_bytes or 0) for each in (ASKED, disk)]
    assert shared[0] is shared[1]
    own = alone.estimator.trial(alone.asked, disk).on(on.gpu_memory_bytes or 0)
    assert [step.gpu.held for step in own.steps] == [step.gpu.held for step in shared[1].steps]
    assert own.ran_out == shared[1].ran_out


def test_a_mixture_of_experts_is_told_to_load_linear_experts() -> None:
    job = Job(samples=8, seq_len=128)
    whole = search(LARGE, job, config=MIXTURE).fit().answer.demand("RAM")
    assert whole is not None
    answer = search(machine(ram=whole.at_least_bytes - 8 * MIB), job, config=MIXTURE).fit()
    assert answer.fits == "no"
    assert any(fix.changes.get("linearized") for fix in answer.fixes)


def test_where_nothing_helps_the_closest_are_shown() -> None:
    answer = search(machine(600 * MIB)).fit()
    assert answer.fixes == ()
    assert answer.closest


# ---------------------------------------------------------------------- the largest that fits
@pytest.mark.parametrize("field", ["samples", "batch_size"])
def test_the_largest_value_fits_and_one_more_does_not(field: str) -> None:
    on = machine(3 * GIB, asks("RAM") + 64 * MIB)
    looking = search(on)
    largest = looking.largest(field)
    assert largest.value is not None
    assert largest.value < largest.limit
    for value, fits in ((largest.value, True), (largest.value + 1, False)):
        changes = {field: value, **({"samples": max(JOB.samples, value)} if field == "batch_size" else {})}
        changed = JOB.model_copy(update=changes)
        assert (estimator().choice(changed, ASKED, on, quick=True).fits in FITTING) is fits


def test_where_not_even_the_smallest_fits_there_is_no_largest() -> None:
    assert search(machine(600 * MIB)).largest("samples").value is None


def test_samples_may_be_shorter_than_a_step_but_not_longer_than_the_model_takes() -> None:
    few = {**CONFIG, "max_position_embeddings": 300}
    assert search(LARGE, config=few).largest("seq_len").value == 256
    short = {**CONFIG, "max_position_embeddings": 100}
    assert search(LARGE, Job(samples=4, seq_len=64), config=short).largest("seq_len").value == 100


def test_a_choice_says_what_is_to_be_known_of_it_alone() -> None:
    on = machine().model_copy(update={"gpus": 2})
    answer = search(on).strategies()
    asked = next(choice for choice in answer.choices if not choice.changes and not choice.recipe_changes)
    assert asked.notes == ()
    ranks = next(choice for choice in answer.choices if choice.changes.get("ranks"))
    assert ranks.notes
    assert f"{ranks.strategy}: {ranks.notes[0].text}" in " ".join(render_strategies(answer).split())
