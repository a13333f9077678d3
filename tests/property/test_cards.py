"""Laws of a job on cards of any size."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.compress.binding import make_program
from planner.compress.context import EVERYTHING, PLACED, Context
from planner.compress.devices import DiffersError, card
from planner.compress.fit import Attempt, Rehearsal, smallest_card
from planner.compress.ledger import Ledger
from planner.compress.oneshot import simulate
from planner.compress.program import Program, StepMemory
from planner.compress.recipes import load_recipe
from planner.compress.tape import play
from planner.cuda.build import CudaBuild
from planner.job import Job
from planner.recipe.specs import Recipe
from planner.units import MIB
from tests import built
from tests.property import strategies
from tests.toys import Toy

Case = tuple[Toy, Recipe, Job]
EXACT = replace(PLACED, settled=None)
EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def program(case: Case) -> Program:
    toy, recipe, job = case
    return make_program(toy.graph, recipe, job)[0]


def rehearsal(case: Case, job: Job | None = None) -> Rehearsal:
    return Rehearsal(program(case), job or case[2], context_bytes=0, shortcuts=EXACT)


def figures(steps: tuple[StepMemory, ...]) -> list[object]:
    return [(step.phase, step.gpu.bytes, step.gpu.allocated, step.gpu.held, step.cpu.bytes) for step in steps]


def needed(attempt: Attempt) -> int:
    return max(step.gpu.held.reserved for step in attempt.steps if step.gpu.held)


@EXAMPLES
@given(strategies.cases())
def test_short_cuts_change_no_figure_of_the_allocator_either(case: Case) -> None:
    walked = Rehearsal(program(case), case[2], context_bytes=0, shortcuts=EVERYTHING).roomy
    assert figures(rehearsal(case).roomy.steps) == figures(walked.steps)


@EXAMPLES
@given(strategies.cases(), st.integers(0, 100))
def test_the_tape_tells_of_a_card_what_a_simulation_on_it_does(case: Case, percent: int) -> None:
    walked = Ledger(gpu=card(case[2].gpu_memory_bytes, 0), second=card(case[2].gpu_memory_bytes, 0))
    simulate(program(case), Context(case[2], walked, shortcuts=EVERYTHING, cuda=CudaBuild()))
    most = max(1, needed(rehearsal(case).roomy))
    total = max(1, most * percent // 100)
    tape = rehearsal(case)._ledger.tape("gpu")
    for recorded in (tape, walked.tape("gpu")):
        try:
            played = play(recorded, card(total, 0, is_strict=True))
        except DiffersError:
            continue
        real = rehearsal(case)._simulated(total, EVERYTHING, is_strict=True)[1]
        assert (played.out_of_memory is None) == (real.ran_out is None)
        assert (played.out_at is None) or (real.ran_out is not None and played.out_at == real.ran_out.step)
        assert played.helds == [step.gpu.held for step in real.steps]


@EXAMPLES
@given(strategies.cases())
def test_the_smallest_card_gets_the_job_through(case: Case) -> None:
    jobs = rehearsal(case)
    if needed(jobs.roomy):
        assert jobs.on(jobs.smallest()).ran_out is None


@EXAMPLES
@given(strategies.cases())
def test_a_card_never_holds_more_than_it_has(case: Case) -> None:
    jobs = rehearsal(case)
    most = needed(jobs.roomy)
    for total in (most // 2, most * 3 // 4, most):
        assert all(step.gpu.held is None or step.gpu.held.reserved <= total for step in jobs.on(max(total, 1)).steps)


@EXAMPLES
@given(strategies.cases(), st.lists(st.integers(0, 110), min_size=2, max_size=6, unique=True))
def test_a_card_between_two_that_were_tried_is_told_as_if_it_was_tried_alone(case: Case, percents: list[int]) -> None:
    jobs = rehearsal(case)
    most = max(1, needed(jobs.roomy))
    for percent in percents:
        total = max(1, most * percent // 100)
        told, alone = jobs.on(total), rehearsal(case).on(total)
        assert figures(told.steps) == figures(alone.steps)
        assert told.ran_out == alone.ran_out


@EXAMPLES
@given(strategies.cases(), st.integers(50, 200))
def test_what_the_card_with_room_says_of_others_is_what_a_simulation_on_them_says(case: Case, percent: int) -> None:
    jobs = rehearsal(case)
    total = max(1, needed(jobs.roomy) * percent // 100)
    told = jobs._seen_like(total)
    if told is not None:
        real = rehearsal(case)._simulated(total, EVERYTHING, is_strict=True)[1]
        assert figures(told.steps) == figures(real.steps)
        assert real.ran_out is None


@EXAMPLES
@given(strategies.cases(), st.integers(1, 300))
def test_a_rehearsal_taken_to_another_card_is_the_one_of_that_card(case: Case, percent: int) -> None:
    known = rehearsal(case)
    job = case[2].model_copy(update={"gpu_memory_bytes": max(1, needed(known.roomy) * percent // 100)})
    taken, real = known.on_card_of(job), rehearsal(case, job)
    if taken is not None:
        assert figures(taken.roomy.steps) == figures(real.roomy.steps)
        assert taken.on(job.gpu_memory_bytes) == real.on(job.gpu_memory_bytes)
        assert taken.smallest() == real.smallest()


@EXAMPLES
@given(strategies.cases(), st.integers(0, 100))
def test_where_a_question_is_said_to_have_another_answer_the_tape_finds_that(case: Case, percent: int) -> None:
    known = rehearsal(case)
    total = max(1, needed(known.roomy) * percent // 100)
    if any(seen.band.is_told_otherwise(total) for seen in known._seen):
        with pytest.raises(DiffersError):
            play(known._ledger.tape("gpu"), card(total, 0, is_strict=True))


@EXAMPLES
@given(strategies.cases(), st.integers(1, 100))
def test_no_card_below_the_least_gets_through(case: Case, percent: int) -> None:
    jobs = rehearsal(case)
    total = (jobs.least - 1) * percent // 100
    if total > 0:
        assert jobs.on(total).ran_out is not None


@given(limit=st.integers(1, 10**12), start=st.integers(1, 10**12))
def test_the_search_finds_the_limit_of_a_job_that_does_not_adapt(limit: int, start: int) -> None:
    found = smallest_card(lambda total: total >= limit, start, 200)
    assert limit <= found <= limit + max(4 * MIB, found // 200)


@given(least=st.integers(1, 10**12), above=st.integers(1, 10**12), percent=st.integers(1, 110))
def test_where_the_search_begins_from_below_it_ends_where_halving_from_above_does(
    least: int, above: int, percent: int
) -> None:
    start, limit, tried = least + above, least + above * percent // 100 + 1, list[int]()

    def gets_through(total: int) -> bool:
        tried.append(total)
        return total >= limit

    found, fails, passes = smallest_card(gets_through, start, 200, least), least, start
    while passes < limit:
        fails, passes = passes, passes + max(passes // 8, MIB)
    while passes - fails > max(4 * MIB, passes // 200):
        middle = (passes + fails) // 2
        fails, passes = (fails, middle) if middle >= limit else (middle, passes)
    assert found == passes
    assert len(tried) == len(set(tried))
    if limit <= least + above // 8 and above > 64 * MIB and above > start // 8:
        assert max(tried) <= least + above // 4  # no card is tried that has much more room


def test_a_job_that_adapts_is_said_to_need_the_card_above_the_last_that_failed() -> None:
    def gets_through(total: int) -> bool:
        return total >= 900 * MIB or 500 * MIB <= total < 700 * MIB

    found = smallest_card(gets_through, 1000 * MIB, 200)
    assert 900 * MIB <= found <= 905 * MIB


def test_the_search_goes_on_where_the_next_larger_card_fails() -> None:
    def gets_through(total: int) -> bool:
        return total >= 900 * MIB or 200 * MIB <= total < 300 * MIB

    found = smallest_card(gets_through, 1000 * MIB, 200, least=100 * MIB)
    assert 900 * MIB <= found <= 905 * MIB


def test_a_card_that_is_asked_about_gets_the_verdict_of_a_plan_on_that_card() -> None:
    """A card so near to the limit that a walk in other steps would end otherwise: found by `tests.choose.advice`."""
    asked, total = Job(samples=64, layers=2, sequential_targets=("LlamaAttention", "LlamaMLP")), 5_494_328_524
    program = make_program(built.graph_of("llama-2-13b", asked), load_recipe("gptq_w4a16"), asked)[0]
    planned = Rehearsal(program, asked.model_copy(update={"gpu_memory_bytes": total})).on(total)
    found = Rehearsal(program, asked).exactly_on(total)
    assert found.ran_out is None
    assert figures(found.steps) == figures(planned.steps)


def test_a_job_that_asks_how_much_is_free_is_taken_to_cards_that_tell_it_the_same_and_to_no_others() -> None:
    asked = Job(samples=4, seq_len=512, layers=2)
    program = make_program(built.graph_of("qwen3-30b-a3b", asked), load_recipe("gptq_w4a16"), asked)[0]
    known, met = Rehearsal(program, asked), set()
    for percent in (25, 60, 100, 140, 400):
        total = known._needed() * percent // 100
        taken = known.on_card_of(asked.model_copy(update={"gpu_memory_bytes": total}))
        if taken is not None:
            met.add("told the same")
            real = Rehearsal(program, taken.job)
            assert figures(taken.roomy.steps) == figures(real.roomy.steps)
            assert taken.on(total) == real.on(total)
        elif known._seen[0].band.is_told_otherwise(total - known.context_bytes):
            met.add("told otherwise")
            with pytest.raises(DiffersError):
                play(known._ledger.tape("gpu"), card(total, known.context_bytes, is_strict=True))
    assert met == {"told the same", "told otherwise"}


def test_the_smallest_card_is_the_same_whatever_card_was_asked_about() -> None:
    """By `tests.choose.advice`: a search that knew of other cards ended a tenth lower."""
    asked = Job(samples=64, seq_len=1024, layers=2, sequential_targets=("Qwen3Attention", "Qwen3MLP"))
    program = make_program(built.graph_of("qwen3-8b", asked), load_recipe("smoothquant_w8a8"), asked)[0]
    total = 4_768_609_075
    small = Rehearsal(program, asked.model_copy(update={"gpu_memory_bytes": total}))
    other = Rehearsal(program, asked)
    for card_size in (3 * total // 2, total, 4_500_000_000):
        other.on(card_size)
    assert small.smallest() == other.smallest() == Rehearsal(program, asked).smallest()
