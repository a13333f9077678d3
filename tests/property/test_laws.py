"""Laws that every plan of every toy job obeys."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.compress.binding import make_program
from planner.compress.context import EVERYTHING, Context, Shortcuts
from planner.compress.devices import Action, CardUse, CountingDevice, PassedOn
from planner.compress.holdings import DeviceName
from planner.compress.inferred import pipeline_runs
from planner.compress.ledger import Ledger
from planner.compress.modifiers.gptq import GPTQModel, GPTQSpec
from planner.compress.oneshot import simulate
from planner.compress.pipelines.base import Pipeline
from planner.compress.program import Program
from planner.compress.schema import Plan
from planner.job import Job
from planner.timeline import MemoryEvent, fold
from tests import toys
from tests.property import strategies
from tests.property.cases import (
    CALIBRATING,
    EXAMPLES,
    Case,
    any_cases,
    awq_of,
    masks_bytes,
    of_any_case,
    planned,
    simulated,
)
from tests.toys import UNFOLDED

DEVICES: tuple[DeviceName, ...] = ("gpu", "cpu")


# ---------------------------------------------------------------------- the books
def test_the_laws_are_held_on_a_hundred_cases_awq_in_every_pipeline_that_calibrates() -> None:
    drawn = any_cases()
    assert len(drawn) == len(set(drawn)) == EXAMPLES.max_examples == 100
    # and maybe in the data-free one, where the library never calls it
    assert {job.pipeline for _, recipe, job in drawn if awq_of(recipe)} >= set(CALIBRATING)


@of_any_case
def test_the_parts_of_every_peak_sum_to_it(case: Case) -> None:
    for step in planned(case).steps:
        for device in (step.gpu, step.cpu):
            assert sum(device.by_kind.values()) == device.peak_bytes
            assert all(nbytes > 0 for nbytes in device.by_kind.values())
            assert sum(h.bytes for h in device.largest) <= device.peak_bytes
            assert 0 <= device.end_bytes <= device.peak_bytes


@of_any_case
def test_every_peak_is_the_highest_prefix_sum_of_its_steps_events(case: Case) -> None:
    _, ledger = simulated(case)
    for step in ledger.steps:
        for peak, (nbytes, blocks, holders) in step.values():
            assert (peak.bytes, peak.allocated) == (nbytes, blocks)
            kinds: dict[str, int] = {}
            for handle, size in holders.items():
                kind = ledger.about(handle).kind
                kinds[kind] = kinds.get(kind, 0) + size
            assert peak.by_kind == {kind: size for kind, size in kinds.items() if size}


@of_any_case
def test_no_holding_is_ever_negative(case: Case) -> None:
    _, ledger = simulated(case)
    for device in ("gpu", "cpu"):
        assert all(size > 0 for size in ledger.naive[device].live.values())


@of_any_case
def test_allocated_is_never_less_than_requested(case: Case) -> None:
    plan = planned(case)
    assert plan.gpu.peak_allocated_bytes >= plan.gpu.peak_bytes
    for step in plan.steps:
        assert step.gpu.peak_allocated_bytes >= step.gpu.peak_bytes
        assert step.gpu.peak_allocated_bytes % 512 == 0


@of_any_case
def test_the_jobs_peaks_are_the_first_highest_steps(case: Case) -> None:
    plan = planned(case)
    for device, peak in (("gpu", plan.gpu), ("cpu", plan.cpu)):
        heights = [getattr(step, device).peak_bytes for step in plan.steps]
        assert peak.peak_bytes == max(heights)
        assert peak.peak_step == heights.index(max(heights))


# ---------------------------------------------------------------------- lifetimes
CARRIED = {"weights", "batch", "forward", "activation_cache", "qparams"}
"""What may cross to the next step: onloaded weights and their qparams, stale inputs and outputs, the cache."""
STATISTICS = {"hessian", "hessian_update", "observer"}
MAY_STAY = {
    "setup": set(),
    "prepare": {"activation_cache"},
    "calibrate": CARRIED | STATISTICS,
    "compress": CARRIED,
    "propagate": CARRIED,
    "finalize": set(),
}


@EXAMPLES
@given(strategies.cases())
def test_what_a_step_allocates_and_does_not_carry_is_freed_in_it(case: Case) -> None:
    toy, recipe, job = case
    kept: list[tuple[str, dict[str, int], bool]] = []
    close = Pipeline.close

    def noted(self: Pipeline, phase: str, unit: str, **rest: Any) -> Any:
        kept.append((phase, self.context.ledger.live_by_kind("gpu"), self.followed))
        return close(self, phase, unit, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "close", noted)
        simulate(make_program(toy.graph, recipe, job)[0], Context(job, shortcuts=UNFOLDED))
    assert kept
    # GPTQ without data compresses nothing: its observers keep what they saw until they are removed
    idle = {"observer"} if job.pipeline == "datafree" else set()
    home = {"model", "qparams"} if job.weights == "gpu" else set()
    # iMatrix's sums lie there for all layers until the last one is compressed
    sums = {"observer"} if "imatrix_mse" in repr(recipe) else set()
    # AWQ's scaled weights and their scales take the place of what is onloaded
    scaled = {"awq", "observer"} if awq_of(recipe) else set()
    masks = {"activation_cache" if job.offload_device == "gpu" else "batch": masks_bytes(job)}
    for phase, held, followed in kept:
        left = {"compress": idle | scaled, "propagate": scaled}.get(phase, set())
        if phase == "finalize" and followed:  # the pipeline's own names go when it has returned
            left = {"batch", "activation_cache"}
        may_stay = MAY_STAY[phase] | home | left | (sums if phase != "finalize" else set())
        stays = {kind: nbytes for kind, nbytes in held.items() if kind not in may_stay}
        assert stays in ({}, masks), phase  # State.loss_masks outlasts every pipeline


@EXAMPLES
@given(strategies.cases(), st.sampled_from([Shortcuts(), UNFOLDED, EVERYTHING]))
def test_a_job_leaves_weights_samples_and_qparams(case: Case, shortcuts: Shortcuts) -> None:
    toy, recipe, job = case
    context = Context(job, shortcuts=shortcuts)
    program, _ = make_program(toy.graph, recipe, job)
    simulate(program, context)
    masks = Counter[tuple[str, str]](_masks_left(program, job))
    kept = job.rank_samples * toy.ids + masks_bytes(job) + masks["cpu", "calibration_data"]
    samples = {"calibration_data": kept}
    home = {
        "model": toy.weight_bytes - program.disk_bytes,
        "qparams": program.qparam_bytes - program.disk_qparam_bytes,
    }
    on_gpu, on_cpu = (home, samples) if job.weights == "gpu" else ({}, home | samples)
    on_gpu = on_gpu | {kind: masks["gpu", kind] for kind in ("batch", "activation_cache")}
    for device, left in (("gpu", on_gpu), ("cpu", on_cpu)):
        assert context.ledger.live_by_kind(device) == {kind: size for kind, size in left.items() if size}


def _masks_left(program: Program, job: Job) -> dict[tuple[str, str], int]:
    """State.loss_masks at the end, by device and kind: the list of the last pipeline that ran over data."""
    over_data = [run.pipeline for run in pipeline_runs(program, job) if run.pipeline != "datafree"]
    if not job.loss_mask or not over_data:
        return {}
    if over_data[-1] == "basic":
        where = "cpu", "calibration_data"
    else:
        where = "gpu", "activation_cache" if job.offload_device == "gpu" else "batch"
    return {where: masks_bytes(job)}


# ---------------------------------------------------------------------- more of something
@EXAMPLES
@given(strategies.cases(), st.integers(1, 30))
def test_more_samples_never_lower_the_cpu_peak(case: Case, more: int) -> None:
    toy, recipe, job = case
    larger = job.model_copy(update={"samples": job.samples + more})
    assert planned((toy, recipe, larger)).cpu.peak_bytes >= planned(case).cpu.peak_bytes


@EXAMPLES
@given(strategies.gptqs(), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.data())
def test_a_larger_gpu_never_lowers_the_gptq_batch_size(
    spec: GPTQSpec, count: int, rows: int, columns: int, data: st.DataObject
) -> None:
    one = toys.linear(rows=rows * 100, columns=columns * 100, scheme=spec.groups[0])
    small, large = sorted(data.draw(st.tuples(*[st.integers(1, 200_000_000)] * 2)))
    sizes = []
    for memory in (small, large):
        model = GPTQModel(Context(toys.job(gpu_memory_bytes=memory)), spec)
        batches = model._batches([one] * count)
        assert sum(map(len, batches)) == count
        sizes.append(max(map(len, batches)))
    assert sizes[0] <= sizes[1]


@EXAMPLES
@given(strategies.cases(pipeline="sequential", propagate_error=True))
def test_prefetching_never_lowers_a_peak(case: Case) -> None:
    toy, recipe, job = case
    plain, ahead = (planned((toy, recipe, job.model_copy(update={"prefetch": on}))) for on in (False, True))
    assert len(plain.steps) == len(ahead.steps)
    for before, after in zip(plain.steps, ahead.steps, strict=True):
        assert after.gpu.peak_bytes >= before.gpu.peak_bytes


@EXAMPLES
@given(strategies.cases(pipeline="sequential"))
def test_progress_bars_never_lower_a_peak_and_leave_nothing_behind(case: Case) -> None:
    toy, recipe, job = case
    plain, bars = (planned((toy, recipe, job.model_copy(update={"progress_bars": on}))) for on in (False, True))
    for before, after in zip(plain.steps, bars.steps, strict=True):
        assert after.gpu.peak_bytes >= before.gpu.peak_bytes
        assert after.gpu.end_bytes == before.gpu.end_bytes


@EXAMPLES
@given(strategies.cases(weights="cpu", gpu_memory_bytes=10**12))
def test_weights_on_the_gpu_never_lower_its_peak_and_never_raise_the_cpu_s(case: Case) -> None:
    toy, recipe, job = case
    plain, resident = (planned((toy, recipe, job.model_copy(update={"weights": w}))) for w in ("cpu", "gpu"))
    for before, after in zip(plain.steps, resident.steps, strict=True):
        # what waits on the CPU is tied again while both ends are onloaded: more than the model, if that is small
        is_tied_again = before.phase == "save" and toy.tied and before.gpu.by_kind == {"weights": 2 * toy.embedding}
        assert is_tied_again or after.gpu.peak_bytes >= before.gpu.peak_bytes
        assert after.cpu.peak_bytes <= before.cpu.peak_bytes


@EXAMPLES
@given(strategies.cases(weights="disk"))
def test_weights_on_the_disk_change_nothing_on_the_gpu(case: Case) -> None:
    toy, recipe, job = case
    loaded = (replace(toy, on_disk=frozenset()), recipe, job.model_copy(update={"weights": "cpu"}))
    for before, after in zip(planned(loaded).steps, planned(case).steps, strict=True):
        for figure in ("peak_bytes", "peak_allocated_bytes", "end_bytes", "by_kind"):
            assert getattr(after.gpu, figure) == getattr(before.gpu, figure)


@EXAMPLES
@given(strategies.cases(offload_device="cpu", ranks=1))
def test_a_second_gpu_takes_the_activations_that_wait_and_nothing_else(case: Case) -> None:
    toy, recipe, job = case
    on_cpu, on_gpu = planned(case), planned((toy, recipe, job.model_copy(update={"offload_device": "gpu:1"})))
    awq_keeps_on_cpu = any(spec.offload_device == "cpu" for spec in awq_of(recipe))
    for before, after in zip(on_cpu.steps, on_gpu.steps, strict=True):
        assert after.second_gpu is not None
        assert after.gpu == before.gpu
        assert after.second_gpu.by_kind.keys() <= {"activation_cache"}
        if not awq_keeps_on_cpu:
            assert "activation_cache" not in after.cpu.by_kind
            assert after.second_gpu.peak_bytes >= before.cpu.by_kind.get("activation_cache", 0)


@of_any_case
def test_ranks_share_weights_and_take_all_else_for_themselves(case: Case) -> None:
    plan = planned(case)
    ranks = case[2].ranks
    assert (plan.ranks is None) == (ranks == 1)
    if plan.ranks is not None:
        assert plan.cpu.peak_bytes <= plan.ranks.all_bytes <= ranks * plan.cpu.peak_bytes
        assert plan.ranks.shared_bytes <= plan.cpu.peak_bytes


# ---------------------------------------------------------------------- short cuts change nothing
@of_any_case
def test_a_folded_plan_equals_the_unfolded_one(case: Case) -> None:
    folded, whole = planned(case), planned(case, UNFOLDED)
    assert figures(folded) == figures(whole)
    assert [(s.gpu.by_kind, s.cpu.by_kind) for s in folded.steps] == [
        (s.gpu.by_kind, s.cpu.by_kind) for s in whole.steps
    ]


def figures(plan: Plan) -> list[tuple[Any, ...]]:
    """The peaks and ends of every step. What a peak is made of may be told at another of several equal moments."""
    return [
        (
            s.phase,
            s.unit,
            s.gpu.peak_bytes,
            s.gpu.peak_allocated_bytes,
            s.gpu.end_bytes,
            s.cpu.peak_bytes,
            s.cpu.end_bytes,
            s.moved_to_gpu_bytes,
            s.moved_from_gpu_bytes,
        )
        for s in plan.steps
    ]


@of_any_case
def test_shortcuts_change_no_figure(case: Case) -> None:
    assert figures(planned(case)) == figures(planned(case, EVERYTHING))


# ---------------------------------------------------------------------- the stream of events
@of_any_case
def test_the_timeline_folds_to_the_steps(case: Case) -> None:
    outcome, ledger = simulated(case)
    for device in DEVICES:
        timeline, holdings = ledger.timeline(device), {}
        assert len(timeline.ends) == len(outcome.steps)
        for index, step in enumerate(outcome.steps):
            told, result = getattr(step, device), fold(timeline.step(index), holdings)
            holdings = result.holdings
            assert (told.bytes, told.end) == (result.level.peak, result.level.live)


@of_any_case
def test_every_tensor_that_dies_was_born_with_its_size_in_its_holding(case: Case) -> None:
    _, ledger = simulated(case)
    for device in DEVICES:
        alive: Counter[tuple[int, int]] = Counter()
        for holding, nbytes, tensors in ledger.timeline(device).events:
            alive[holding, nbytes] += tensors
            assert alive[holding, nbytes] >= 0
            assert nbytes > 0


@EXAMPLES
@given(strategies.cases())
def test_a_device_in_the_stream_sees_every_event_and_is_asked_what_is_free(case: Case) -> None:
    toy, recipe, job = case
    seat = Witness(job.gpu_memory_bytes)
    ledger = Ledger(gpu=seat, keep="timeline", second=CountingDevice())
    program, _ = make_program(toy.graph, recipe, job)
    simulate(program, Context(job, ledger, shortcuts=UNFOLDED))
    assert seat.seen == list(ledger.timeline("gpu").events)


class Witness(CountingDevice):
    places = True

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.seen: list[MemoryEvent] = []

    def do(self, actions: Iterable[Action], helds: list[CardUse]) -> None:
        for action in actions:
            if isinstance(action, tuple):
                self.seen.append(action)
            elif isinstance(action, PassedOn):
                self.seen += [(action.handle, action.nbytes, -1), (action.heir, action.nbytes, 1)]


@of_any_case
def test_a_plan_survives_json(case: Case) -> None:
    plan = planned(case)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
