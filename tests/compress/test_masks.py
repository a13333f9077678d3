"""Magnitude and constant pruning in one shot: masks on the CPU, from the first moment to the last."""

from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.masks import ConstantPruningSpec, MagnitudePruningSpec, MaskModel
from planner.compress.schema import Plan
from planner.cuda.build import CudaBuild
from planner.errors import PlannerError, UnsupportedError
from planner.planning import plan_graph
from planner.recipe.specs import ModifierSpec
from tests import toys
from tests.toys import Toy

ROWS, COLUMNS = 400, 200
ELEMENTS = ROWS * COLUMNS
HALF = ELEMENTS // 2


def initialized(spec: ConstantPruningSpec, modules: int = 1, cuda: CudaBuild | None = None, **job: Any) -> Context:
    context = Context(toys.job(**job), cuda=cuda)
    MaskModel(context, spec).on_initialize(toys.linear(f"m{i}", ROWS, COLUMNS) for i in range(modules))
    return context


def magnitude(**changes: Any) -> MagnitudePruningSpec:
    fields = {"targets": ["Linear"], "init_sparsity": 0.5, "final_sparsity": 0.5, "start": 0, "end": 1} | changes
    return MagnitudePruningSpec.read(fields, "magnitude")


def constant(**changes: Any) -> ConstantPruningSpec:
    return ConstantPruningSpec.read({"targets": "Linear"} | changes, "constant")


def planned(spec: ModifierSpec, **job: Any) -> Plan:
    return plan_graph(Toy().graph, toys.recipe(spec), toys.job(**job))


# ---------------------------------------------------------------------- memory
def test_a_mask_is_a_byte_for_each_weight_where_the_model_lies() -> None:
    assert initialized(constant(), modules=3).ledger.live("cpu") == 3 * ELEMENTS
    on_gpu = initialized(constant(), weights="gpu")
    assert (on_gpu.ledger.live("gpu"), on_gpu.ledger.live("cpu")) == (ELEMENTS, 0)


def test_filling_a_constant_mask_takes_absolute_values_and_a_verdict() -> None:
    peak = initialized(constant(start=0)).ledger.close_step()["cpu"]
    assert peak.bytes == ELEMENTS * (1 + 2 + 1)


def test_filling_a_magnitude_mask_finds_the_smallest_weights() -> None:
    peak = initialized(magnitude()).ledger.close_step()["cpu"]
    # the mask, scores, ones, the smallest half with int64 positions, and the new mask
    assert peak.bytes == ELEMENTS * (1 + 2 + 1 + 1) + HALF * (2 + 8)


def test_the_new_mask_of_the_module_before_is_still_there() -> None:
    one, two = (initialized(magnitude(), modules=n).ledger.close_step()["cpu"].bytes for n in (1, 2))
    assert two == one + ELEMENTS + ELEMENTS  # its mask, and what its mask was filled with


def test_with_nothing_to_prune_yet_two_masks_of_ones_are_made() -> None:
    peak = initialized(magnitude(init_sparsity=0.0)).ledger.close_step()["cpu"]
    assert peak.bytes == ELEMENTS * (1 + 2 + 1 + 1)


def test_a_schedule_that_does_not_start_leaves_masks_alone() -> None:
    for idle in ({"start": None}, {"start": 2}, {"end": 0}):
        assert initialized(magnitude(**idle)).ledger.close_step()["cpu"].bytes == ELEMENTS


def test_masks_stay_until_the_last_pipeline_ends_and_the_gpu_sees_nothing_before_save() -> None:
    plan = planned(magnitude())
    layer = sum(linear.rows * linear.columns for linear in Toy().layer(0).linears)
    masks = layer * Toy().layers + Toy().head // 2  # lm_head is a Linear too
    held = {step.phase: step.cpu.by_kind.get("mask", 0) for step in plan.steps}
    assert held["compress"] == held["finalize"] == masks
    assert held["save"] == 0
    assert {step.phase for step in plan.steps if step.gpu.peak_bytes} == {"save"}  # which compares the embeddings


def test_they_stay_beside_another_modifiers_pipeline() -> None:
    plan = plan_graph(Toy().graph, toys.recipe(constant(), toys.gptq()), toys.job())
    calibrated = [step for step in plan.steps if step.phase == "calibrate"]
    assert calibrated
    assert all(step.cpu.by_kind["mask"] > 0 for step in calibrated)
    assert plan.steps[-1].cpu.by_kind.get("mask", 0) == 0


def test_what_was_not_measured_is_no_zero() -> None:
    with pytest.raises(UnsupportedError, match="topk takes on the GPU was not measured"):
        initialized(magnitude(), weights="gpu", cuda=CudaBuild())
    with pytest.raises(UnsupportedError, match="with weights on the disk is not modelled"):
        initialized(constant(), weights="disk")


# ---------------------------------------------------------------------- what is said
def test_the_plan_says_that_no_weight_changes() -> None:
    texts = [note.text for note in planned(constant()).notes if "never applied" in note.text]
    assert texts == [
        "constant: masks are made and never applied, for oneshot does not train: weights stay as they are; "
        "without start: 0 they are not even filled"
    ]
    assert any("topk on the CPU sorts 16 bytes" in note.text for note in planned(magnitude()).notes)
    assert any("leaves this model as it is" in n.text for n in planned(constant(targets="Conv2d")).notes)


@pytest.mark.parametrize(
    ("scheduler", "arguments", "sparsity"),
    [
        ("linear", {}, 0.25),
        ("cubic", {}, 1 - 0.75**3),
        ("polynomial_decay", {}, 1 - 0.75**2),
        ("polynomial", {"exponent": 1}, 0.25),
        ("multi_step", {"steps": [[5, 0.9], [-1, 0.4], [0, 0.6]]}, 0.6),
    ],
)
def test_the_first_sparsity_is_the_schedules(scheduler: str, arguments: dict[str, Any], sparsity: float) -> None:
    changes = {"init_sparsity": 0.0, "final_sparsity": 1.0, "start": -1, "end": 3}
    spec = magnitude(**changes, update_scheduler=scheduler, scheduler_args=arguments)
    assert spec.sparsity == pytest.approx(sparsity)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update_scheduler": "cubik"}, r"update_scheduler: LLM Compressor has no such scheduler; did you mean cubic"),
        ({"update_scheduler": "calc(index)"}, "does not evaluate"),
        ({"end": None}, r"magnitude\.end: is needed by the scheduler cubic"),
        ({"mask_structure": "rows"}, r"mask_structure: LLM Compressor has no such structure"),
        ({"mask_structure": "block_1,4"}, r"mask_structure: fails in LLM Compressor on the matrices"),
        ({"apply_globally": True}, r"apply_globally: LLM Compressor has not implemented it"),
        ({"targets": ["__ALL__"]}, r"targets: __ALL__ is no longer supported"),
        ({"params": []}, r"params: unknown field"),
        (
            {"update_scheduler": "multi_step", "scheduler_args": {"steps": [1, 2]}},
            r"magnitude\.scheduler_args\.steps: must be pairs",
        ),
        ({"update_scheduler": "multi_step", "scheduler_args": {"steps": [[0, "x"]]}}, r"steps: must be pairs"),
        (
            {"update_scheduler": "polynomial", "scheduler_args": {"exponent": "two"}},
            r"magnitude\.scheduler_args\.exponent: must be a number",
        ),
        (
            {"update_scheduler": "polynomial", "scheduler_args": {"exponent": -1}, "start": 0},
            r"exponent: -1 is no power for 0",
        ),
        ({"init_sparsity": 3.0}, r"magnitude\.init_sparsity: the first mask's sparsity would be 3;"),
    ],
)
def test_what_the_library_fails_on_is_refused_by_its_path(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        magnitude(**changes)
    if changes.get("mask_structure") == "block_1,4":
        assert magnitude(**changes, start=None).mask_structure == "block_1,4"


def test_the_old_names_for_classes_are_expanded() -> None:
    assert constant(targets="__ALL_PRUNABLE__").targets == ("Linear", "Conv1d", "Conv2d", "Conv3d")
