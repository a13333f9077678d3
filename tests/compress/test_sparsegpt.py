"""SparseGPT: module by module; the peak of compressing one Linear as closed formulas."""

from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.sparsegpt import SparseGPTModel, SparseGPTSpec
from planner.planning import plan_graph
from planner.recipe.targets import LinearModule
from tests import toys

TOKENS, BLOCK = 10, 128
UNSTRUCTURED: dict[str, Any] = {"prune_n": 0, "prune_m": 0}


def calibrated(spec: SparseGPTSpec, targets: list[LinearModule]) -> tuple[SparseGPTModel, Context]:
    context = Context(toys.job())
    model = SparseGPTModel(context, spec)
    for module in targets:
        model.after_forward(module, toys.linear_call(module.name, TOKENS, module.rows, module.columns, module.itemsize))
    context.ledger.close_step()
    return model, context


def peaks(spec: SparseGPTSpec, *targets: LinearModule) -> dict[str, int]:
    """Peak bytes of compressing, by device."""
    model, context = calibrated(spec, list(targets))
    model.on_sequential_epoch_end(targets)
    return {device: peak.bytes for device, peak in context.ledger.close_step().items()}


def sparse(name: str = "m", rows: int = 512, columns: int = 512, itemsize: int = 2) -> LinearModule:
    return toys.linear(name, rows, columns, itemsize)


# ---------------------------------------------------------------------- what is alive when
def phases(rows: int, n: int, *, itemsize: int = 2, preserved: bool = False, offloaded: bool = False) -> dict[str, int]:
    """GPU bytes at the height of each phase of one (rows, n) Linear pruned 2:4; n is at least two whole blocks."""
    weight, working, hessian = rows * n * itemsize, rows * n * 4, 0 if offloaded else 4 * n * n
    cast = weight if itemsize != 4 else 0  # W.to(float32) and back need another tensor, unless it is fp32
    held = weight + working + hessian
    mask = rows * n if preserved else 0
    wide, column = rows * BLOCK * 4, rows * 4
    # arange over the diagonal, losses; W1, Q1, Err1, Losses1; scores of a group of four; q and err1
    steady = held + n * 8 + mask + column + 4 * wide + rows * 4 * 4 + 2 * column
    new_mask = 0 if preserved else rows * BLOCK
    right = rows * (n - BLOCK)
    return {
        "to fp32": weight + cast + working + hessian,
        "invert": held + n * 8 + 2 * hessian,
        "old mask": held + n * 8 + 2 * mask,
        "columns": steady + new_mask + wide,
        "update": steady + new_mask + right * 4 + (right + right * 4 if preserved else 0),
        "next mask": steady + (new_mask + wide + new_mask if not preserved else wide),
        "back": steady + new_mask + cast,
    }


@pytest.mark.parametrize(("rows", "n"), [(1024, 1024), (2048, 2048), (128, 1024), (1024, 256)])
def test_one_linear_peaks_as_the_formula_says(rows: int, n: int) -> None:
    assert peaks(toys.sparsegpt(), sparse(rows=rows, columns=n))["gpu"] == max(phases(rows, n).values())


def test_a_large_square_linear_peaks_while_its_hessian_is_inverted() -> None:
    n = 4096
    heights = phases(n, n)
    assert max(heights, key=lambda phase: heights[phase]) == "invert"
    # bf16 and fp32 weights; the Hessian's factor, its copy and its inverse; diag
    assert peaks(toys.sparsegpt(), sparse(rows=n, columns=n))["gpu"] == n * n * (2 + 4 + 3 * 4) + 8 * n


def test_fp32_weights_are_cloned_once_and_never_cast() -> None:
    rows, n = 4096, 256
    assert peaks(toys.sparsegpt(), sparse(rows=rows, columns=n, itemsize=4))["gpu"] == max(
        phases(rows, n, itemsize=4).values()
    )


def test_preserving_the_mask_masks_the_update_too() -> None:
    rows, n = 4096, 256
    spec = toys.sparsegpt(preserve_sparsity_mask=True)
    heights = phases(rows, n, preserved=True)
    assert max(heights, key=lambda phase: heights[phase]) == "update"
    assert peaks(spec, sparse(rows=rows, columns=n))["gpu"] == max(heights.values())


def test_an_unstructured_mask_sorts_all_weights_of_a_block() -> None:
    rows, n, wide = 8192, 256, 8192 * BLOCK * 4
    inside = rows * n * (2 + 4) + 4 * n * n + n * 8 + rows * 4
    # second block: W1, Q1, Err1, Losses1, the first block's mask, thresh and column, tmp, and the sort's
    # values and int64 positions
    column = 2 * rows * 4
    expected = inside + 4 * wide + rows * BLOCK + wide + column + wide + 2 * wide + wide
    assert peaks(toys.sparsegpt(**UNSTRUCTURED), sparse(rows=rows, columns=n))["gpu"] == expected


def test_the_result_before_lives_until_the_next_one_is_there() -> None:
    rows, n = 2048, 512
    one, two = (peaks(toys.sparsegpt(), *(sparse(f"m{i}", rows, n) for i in range(count)))["gpu"] for count in (1, 2))
    weight = rows * n * 2
    assert weight > 4 * n * n  # the Hessian that waits while the first is pruned
    # the first module's weight and its pruned copy, beside the second module's own peak
    assert two == one + weight + weight


def test_hessians_that_wait_on_the_cpu_are_inverted_there() -> None:
    rows, n = 1024, 512
    hessian = 4 * n * n
    result = peaks(toys.sparsegpt(offload_hessians=True), sparse(rows=rows, columns=n))
    assert result["cpu"] == 2 * hessian
    assert result["gpu"] == max(phases(rows, n, offloaded=True).values())


# ---------------------------------------------------------------------- while calibrating, and after
def test_only_modules_to_be_pruned_get_a_hessian() -> None:
    toy = toys.Toy()
    first, *rest = toy.layer(0).linears
    ignore = ("re:.*lm_head", *(rf"re:.*\{linear.name}\.?$" for linear in rest))
    plan = plan_graph(toy.graph, toys.recipe(toys.sparsegpt(ignore=ignore)), toys.job())
    calibrated = next(step for step in plan.steps if step.unit == "model.layers.0" and step.phase == "calibrate")
    assert rest
    assert calibrated.gpu.by_kind["hessian"] == 4 * first.columns**2


@pytest.mark.parametrize("changes", [{}, UNSTRUCTURED, {"preserve_sparsity_mask": True}, {"offload_hessians": True}])
def test_after_compressing_only_weights_are_left(changes: dict[str, Any]) -> None:
    targets = [sparse("a", 300, 200), sparse("b", 200, 300)]
    model, context = calibrated(toys.sparsegpt(**changes), targets)
    model.on_sequential_epoch_end(targets)
    assert context.ledger.live_by_kind("gpu") == {"weights": sum(m.weight_bytes for m in targets)}
    assert context.ledger.live("cpu") == 0
    assert not model.hessians.modules
