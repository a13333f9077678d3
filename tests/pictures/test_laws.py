"""Laws of pictures, on toys of all kinds."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.compress.schema import CpuStep, GpuStep, Plan, Step
from planner.job import Job
from planner.pictures import condense
from planner.pictures.make import picture_of
from planner.pictures.reading import LevelAt, alive, peak_of, step_levels
from planner.pictures.schema import DeviceKey, Picture
from planner.planning import plan_graph
from planner.recipe.specs import Recipe
from tests.property import strategies
from tests.toys import Toy, gptq, job, recipe

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
def test_the_highest_moment_of_every_step_is_the_plans_figure_to_the_byte(case: Case) -> None:
    plan, picture = drawn(case)
    for step in plan.steps:
        for device, place in picture.steps[step.index].devices.items():
            more = sum(shift.bytes for shift in place.shifts)
            highest = max(level.requested for level in shown(picture, step.index, device)) + more
            assert highest == planned(step, device).peak_bytes


@EXAMPLES
@given(strategies.cases())
def test_a_step_ends_in_the_picture_with_what_the_plan_says_it_leaves(case: Case) -> None:
    plan, picture = drawn(case)
    for step in plan.steps:
        for device, place in picture.steps[step.index].devices.items():
            more = sum(shift.bytes for shift in place.shifts)
            assert shown(picture, step.index, device)[-1].requested + more == planned(step, device).end_bytes


@EXAMPLES
@given(strategies.cases())
def test_a_walked_step_shows_what_the_allocator_held_at_most(case: Case) -> None:
    plan, picture = drawn(case)
    for step in plan.steps:
        if picture.steps[step.index].like is not None:
            continue
        drawn_levels = shown(picture, step.index, "gpu")
        assert max(level.allocated for level in drawn_levels) == step.gpu.peak_allocated_bytes
        assert max(level.reserved for level in drawn_levels) == step.gpu.peak_reserved_bytes


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
        for each in alive(picture.curves[place.curves], peak.tick):
            what = picture.whats[each.what]
            key = what.name, picture.kinds[what.kind].kind + what.role
            sums[key] = sums.get(key, 0) + each.bytes
        for owned in step.gpu.largest:
            assert sums[owned.name, owned.kind + owned.role] == owned.bytes


def test_a_plan_by_the_rule_of_thumb_has_no_picture() -> None:
    toy = Toy()

    asked = job()
    assert (
        picture_of(toy.graph, recipe(gptq()), plan_graph(toy.graph, recipe(gptq()), asked, method="rule-of-thumb"))
        is None
    )
