"""Laws of pictures, on toys of all kinds."""

from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.compress.schema import CpuStep, GpuStep, Plan, Step
from planner.compress.watching import StepLog
from planner.job import Job
from planner.pictures import condense
from planner.pictures.make import picture_of
from planner.pictures.reading import LevelAt, alive, peak_of, step_levels
from planner.pictures.schema import DeviceKey, Picture
from planner.pictures.walk import walked
from planner.planning import checked_program, plan_graph
from planner.recipe.specs import Recipe
from tests.property import strategies
from tests.toys import Layer, Linear, Toy, gptq, job, recipe

Case = tuple[Toy, Recipe, Job]
EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def drawn(case: Case) -> tuple[Plan, Picture]:
    toy, chosen, asked = case
    plan = plan_graph(toy.graph, chosen, asked, on_card=True)
    picture = picture_of(toy.graph, chosen, plan)
    assert picture is not None
    return plan, picture


def watched(case: Case) -> list[list[StepLog]]:
    """What a watcher is shown: of every step that is walked, its devices."""
    toy, chosen, asked = case
    logs: list[StepLog] = []
    plan = plan_graph(toy.graph, chosen, asked, on_card=True)
    program, _, _ = checked_program(toy.graph, chosen, asked)
    walked(program, plan, lambda log: logs.append(log))
    devices = 3 if asked.has_second_gpu else 2
    return [logs[start : start + devices] for start in range(0, len(logs), devices)]


def planned(step: Step, device: DeviceKey) -> GpuStep | CpuStep:
    found = {"gpu": step.gpu, "gpu1": step.second_gpu, "cpu": step.cpu}[device]
    assert found is not None
    return found


def shown(picture: Picture, step: int, device: DeviceKey) -> list[LevelAt]:
    found = step_levels(picture, step, device)
    assert found is not None, f"step {step} is not drawn"
    return found


@EXAMPLES
@given(strategies.cases())
def test_every_step_has_the_plans_highest_moment_and_end_to_the_byte(case: Case) -> None:
    plan, picture = drawn(case)
    for step in plan.steps:
        for device, place in picture.steps[step.index].devices.items():
            more = sum(shift.bytes for shift in place.shifts)
            found = shown(picture, step.index, device)
            assert max(level.requested for level in found) + more == planned(step, device).peak_bytes
            assert found[-1].requested + more == planned(step, device).end_bytes
        if picture.steps[step.index].like is None:  # walked here, on the plan's card
            found = shown(picture, step.index, "gpu")
            assert max(level.allocated for level in found) == step.gpu.peak_allocated_bytes
            assert max(level.reserved for level in found) == step.gpu.peak_reserved_bytes


@EXAMPLES
@given(strategies.cases(), st.integers(2, 30), st.integers(1, 12))
def test_thinned_curves_keep_every_peak_and_every_byte(case: Case, moments: int, held: int) -> None:
    before = condense.MOMENTS, condense.HELD
    condense.MOMENTS, condense.HELD = 4 * moments, held
    try:
        plan, picture = drawn(case)
    finally:
        condense.MOMENTS, condense.HELD = before
    for step in plan.steps:
        peak = peak_of(picture, step.index, "gpu")
        assert peak is not None
        more = sum(shift.bytes for shift in picture.steps[step.index].devices["gpu"].shifts)
        assert peak.requested + more == step.gpu.peak_bytes
        assert len(shown(picture, step.index, "gpu")) <= 4 * moments + 2


@EXAMPLES
@given(strategies.cases())
def test_what_is_alive_at_a_peak_is_what_the_plan_names_there(case: Case) -> None:
    plan, picture = drawn(case)
    for step in plan.steps:
        place, peak = picture.steps[step.index].devices["gpu"], peak_of(picture, step.index, "gpu")
        if place.shifts or peak is None or place.curves is None or picture.steps[step.index].like is not None:
            continue
        sums: dict[tuple[str, str], int] = {}
        for each in alive(picture.curves[place.curves], peak.tick, place.whats):
            what = picture.whats[each.what]
            key = what.name, picture.kinds[what.kind].kind + what.role
            sums[key] = sums.get(key, 0) + each.bytes
        for owned in step.gpu.largest:
            assert sums[owned.name, owned.kind + owned.role] == owned.bytes


def check_clock(case: Case) -> None:
    """A step's clock has a tick for every moment on any device, from 1 to the step's length."""
    for logs in watched(case):
        (length,) = {log.length for log in logs}
        assert sorted({tick for log in logs for tick in log.ticks}) == list(range(1, length + 1))


@EXAMPLES
@given(strategies.cases())
def test_a_walked_steps_length_is_its_number_of_moments_and_the_first_is_at_tick_one(case: Case) -> None:
    check_clock(case)


def test_a_step_that_is_walked_after_a_copied_subgraph_begins_at_tick_one_too() -> None:
    narrow, wide = (Layer(linears=(Linear(name=".q_proj", rows=n, columns=n),)) for n in (100, 200))
    case = Toy(kinds=(narrow, wide), order=(0, 0, 0, 0, 1)), recipe(gptq()), job()
    likes = [step.like for step in drawn(case)[1].steps]
    assert any(before is not None and after is None for before, after in pairwise(likes)), "no walk after a copy"
    check_clock(case)


def test_a_plan_by_the_rule_of_thumb_has_no_picture() -> None:
    toy = Toy()

    asked = job()
    assert (
        picture_of(toy.graph, recipe(gptq()), plan_graph(toy.graph, recipe(gptq()), asked, method="rule-of-thumb"))
        is None
    )


def test_a_job_that_runs_out_of_memory_is_drawn_on_a_card_with_room_as_it_is_planned() -> None:
    toy, asked = Toy(), recipe(gptq())
    plan = plan_graph(toy.graph, asked, job(gpu_memory_bytes=1), on_card=True)
    assert plan.verdict is not None
    assert plan.verdict.outcome == "out of memory"
    picture = picture_of(toy.graph, asked, plan)
    assert picture is not None
    assert not picture.notes
    for step in plan.steps:
        peak = peak_of(picture, step.index, "gpu")
        assert peak is not None
        assert peak.requested == step.gpu.peak_bytes


def test_where_activations_wait_on_a_second_card_it_is_drawn_too() -> None:
    toy, asked = Toy(), recipe(gptq())
    plan = plan_graph(toy.graph, asked, job(offload_device="gpu:1"), on_card=True)
    picture = picture_of(toy.graph, asked, plan)
    assert picture is not None
    assert picture.devices == ("gpu", "gpu1", "cpu")
    for step in plan.steps:
        peak = peak_of(picture, step.index, "gpu1")
        assert peak is not None
        assert step.second_gpu is not None
        assert peak.requested == step.second_gpu.peak_bytes


def test_batches_that_are_passed_over_are_said_to_be() -> None:
    toy, asked = Toy(), recipe(gptq())
    picture = picture_of(toy.graph, asked, plan_graph(toy.graph, asked, job(samples=64), on_card=True))
    assert picture is not None
    texts = [text for step in picture.steps for _, text in step.milestones]
    assert "batch 1" in texts
    assert any(text.endswith("like those before") for text in texts)
