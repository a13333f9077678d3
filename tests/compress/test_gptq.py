"""GPTQ: batches of equal modules, and the peak of compressing them as closed formulas."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.gptq import GPTQModel, GPTQSpec
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from planner.units import GIB
from tests import toys

GROUP = 128
W4A16 = toys.weights(group_size=GROUP, actorder="static")
TOKENS = 10


def modules(count: int, rows: int, columns: int, args: QuantArgs = W4A16) -> list[LinearModule]:
    return [toys.linear(f"m{i}", rows=rows, columns=columns, scheme=toys.scheme(args)) for i in range(count)]


def calibrated(spec: GPTQSpec, targets: Sequence[LinearModule], **options: Any) -> tuple[GPTQModel, Context]:
    """The model once every module has seen one batch."""
    context = Context(toys.job(**options))
    model = GPTQModel(context, spec)
    for module in targets:
        model.after_forward(module, toys.linear_call(module.name, TOKENS, module.rows, module.columns))
    context.ledger.close_step()
    return model, context


def compress_peak(spec: GPTQSpec, targets: Sequence[LinearModule], **options: Any) -> int:
    model, context = calibrated(spec, targets, **options)
    model.on_sequential_epoch_end(targets)
    return context.ledger.close_step()["gpu"].bytes


# ---------------------------------------------------------------------- what is alive when
def phases(k: int, rows: int, n: int, *, block: int = 128, ordered: bool = True) -> dict[str, int]:
    """GPU bytes at the height of each phase of one batch of `k` bf16 (rows, n) modules in int4 groups of 128.

    k x weights, k x Hessians (fp32, n x n) and so on; n must be more than two blocks wide, or one.
    """
    weight, working, hessian = k * rows * n * 2, k * rows * n * 4, 4 * n * n
    scales = k * rows * -(-n // GROUP)
    qparams, statistics, sample_counter = scales * (2 + 1), scales * 2 * 2, 4
    one_module = scales // k * 2
    stacks = k * hessian + working + qparams
    held = weight + qparams + stacks
    perm, g_idx, losses = (k * n * 8 if ordered else 0), n * 4, k * rows * 4
    inside = held + perm + g_idx + losses + k  # one byte per module: used_rtn_fallback
    blocks = 4 * k * rows * block * 4  # W1, Q1, Err1, losses1
    scales_of_block = block * 8 + k * rows * block * 2
    square = k * rows * block * 4
    w_err = [k * rows * max(0, n - i * block) * 4 for i in range(4)]
    last_dampened_batch = hessian if k < 16 else k * hessian
    return {
        "observe": weight + k * hessian + k * sample_counter + statistics,
        "qparams": weight + k * hessian + k * sample_counter + statistics + 7 * one_module,
        "prepare": weight + qparams + hessian + k * hessian + k * hessian + sample_counter,
        "stack weights": held + hessian + sample_counter,
        "order Hessians": held + perm + (2 * k * hessian if ordered else 0),
        "order weights": held + perm + (working if ordered else 0),
        "factorize": inside + k * n + 2 * last_dampened_batch,
        "first block": inside + blocks + max(scales_of_block + square, w_err[1]),
        "second block": inside + (blocks + w_err[1] + max(scales_of_block + square, w_err[2]) if n > block else 0),
        "restore order": inside + (2 * k * n * 8 + working if ordered else 0),
    }


@pytest.mark.parametrize("n", [512, 1024, 2048])
@pytest.mark.parametrize("ordered", [True, False])
def test_one_square_linear_peaks_at_its_second_block(n: int, ordered: bool) -> None:
    args = W4A16 if ordered else replace(W4A16, actorder=None)
    heights = phases(1, n, n, ordered=ordered)
    assert max(heights, key=lambda phase: heights[phase]) == "second block"
    assert compress_peak(toys.gptq(args), modules(1, n, n, args)) == max(heights.values())


def test_the_peak_of_a_large_square_linear_is_nine_times_its_weights() -> None:
    """2 bytes of weight; fp32 Hessian and working weights; two fp32 updates of what is right of a block."""
    n, share = 8192, 128 / 8192
    peak = compress_peak(toys.gptq(), modules(1, n, n))
    assert peak == pytest.approx(n * n * (2 + 4 + 4 + 4 + 4), rel=4 * share)


@pytest.mark.parametrize(("rows", "columns"), [(64, 1024), (256, 2048), (128, 512)])
def test_a_wide_linear_peaks_where_its_hessian_is_copied(rows: int, columns: int) -> None:
    heights = phases(1, rows, columns)
    assert max(heights, key=lambda phase: heights[phase]) == "factorize"
    assert compress_peak(toys.gptq(), modules(1, rows, columns)) == max(heights.values())


def test_one_block_that_covers_all_columns_leaves_no_update() -> None:
    assert compress_peak(toys.gptq(), modules(1, 4096, 128)) == max(phases(1, 4096, 128).values())


@pytest.mark.parametrize("count", [2, 3, 15, 16, 20])
def test_a_batch_stacks_everything_and_is_factorized_at_once_from_sixteen_on(count: int) -> None:
    spec = toys.gptq(batched_quantization=count)
    assert compress_peak(spec, modules(count, 64, 512)) == max(phases(count, 64, 512).values())


@pytest.mark.parametrize("block", [64, 256])
def test_wider_blocks_cost_more_working_columns(block: int) -> None:
    spec = toys.gptq(block_size=block)
    assert compress_peak(spec, modules(1, 1024, 1024)) == max(phases(1, 1024, 1024, block=block).values())


def test_blocks_that_are_not_simulated_cost_no_more() -> None:
    """Narrower updates follow narrower ones: the formula over all blocks gives the same peak."""
    n, block = 2048, 128
    heights = phases(1, n, n)
    inside = heights["first block"] - 4 * n * block * 4 - n * (n - block) * 4
    every = [
        inside + 16 * n * block + n * (n - i * block) * 4 + n * (n - (i + 1) * block) * 4 for i in range(1, n // block)
    ]
    assert compress_peak(toys.gptq(), modules(1, n, n)) == max(every)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_batch_before_is_held_until_its_names_are_assigned_again(ordered: bool) -> None:
    rows, n, args = 512, 1024, W4A16 if ordered else replace(W4A16, actorder=None)
    weight, working, hessian, qparams = rows * n * 2, rows * n * 4, n * n * 4, rows * n // GROUP * 3
    # the first batch: stacked Hessian, working weights, scales, losses and fallback flag; restoring the
    # order made a result of its own, otherwise the working weights are the result
    before = hessian + working + (working if ordered else 0) + qparams + 4 + 1
    # the second: raw Hessian, normalized one, stack, qparams, sample counter; both weights are onloaded
    second = 2 * weight + before + 3 * hessian + qparams + 4
    # while the first is factorized, weight, Hessian, counter and statistics of the second wait
    first = phases(1, rows, n, ordered=ordered)["factorize"] + weight + hessian + 4 + rows * n // GROUP * 2 * 2
    assert (second > first) is ordered
    peak = compress_peak(toys.gptq(args, batched_quantization=None), modules(2, rows, n, args))
    assert peak == max(first, second)


def test_one_scale_per_row_needs_no_group_index() -> None:
    n = 1024
    args = toys.weights(strategy="channel", group_size=None, actorder="static")
    qparams = n * 3
    held = n * n * (2 + 4 + 4) + 2 * qparams
    inside = held + n * 8 + n * 4 + 1
    second_block = inside + 16 * n * 128 + n * (n - 128) * 4 + n * (n - 256) * 4
    assert compress_peak(toys.gptq(args), modules(1, n, n, args)) == second_block


def test_the_eager_update_holds_a_columns_parts_beside_the_block() -> None:
    """A block that the fused kernel does not take: its width is no power of two."""
    rows, n, block = 4096, 200, 100
    spec = toys.gptq(toys.weights(group_size=100), block_size=block)
    args = spec.groups[0].weights
    assert args is not None
    qparams = rows * 2 * 3
    inside = rows * n * (2 + 4) + 4 * n * n + 2 * qparams + n * 4 + rows * 4 + 1
    window = block * 8 + rows * block * 2
    second = inside + 16 * rows * block + rows * (n - block) * 4 + window + 4 * rows * 4 + rows * block * 4
    assert compress_peak(spec, modules(1, rows, n, args)) == second


def test_asymmetric_zero_points_are_spread_over_the_block_in_fp32() -> None:
    rows, n, block = 4096, 256, 128
    symmetric, asymmetric = toys.weights(group_size=GROUP), toys.weights(group_size=GROUP, symmetric=False)
    less, more = (compress_peak(toys.gptq(a), modules(1, rows, n, a)) for a in (symmetric, asymmetric))
    # the second block's window and square set both peaks
    assert more - less == rows * block * 4


# ---------------------------------------------------------------------- how many at once
def batch_sizes(spec: GPTQSpec, targets: Sequence[LinearModule], **options: Any) -> list[int]:
    model, _ = calibrated(spec, targets, **options)
    return [len(batch) for batch in model._batches(list(targets))]


def per_module(rows: int, columns: int, block: int = 128) -> int:
    """What max_batch_size counts for one module."""
    hessian, weight = columns * columns, rows * columns
    return 4 * max(hessian + 3 * weight + 4 * rows * block, 3 * hessian + 2 * weight)


def card_for(count: int, targets: Sequence[LinearModule]) -> int:
    """The smallest card whose free memory takes batches of `count` once weights and Hessians are there."""
    rows, columns = targets[0].rows, targets[0].columns
    held = sum(m.weight_bytes + 4 * m.columns**2 + 4 for m in targets)
    return held + -(-count * per_module(rows, columns) * 100 // 75)


def test_a_large_card_takes_all_equal_modules_at_once() -> None:
    assert batch_sizes(toys.gptq(), modules(12, 256, 256), gpu_memory_bytes=80 * GIB) == [12]


def test_auto_takes_what_fits_into_three_quarters_of_the_free_memory() -> None:
    targets = modules(10, 256, 512)
    for count in (1, 3, 4, 9):
        card = card_for(count, targets)
        full, rest = divmod(10, count)
        assert batch_sizes(toys.gptq(), targets, gpu_memory_bytes=card) == [count] * full + [rest] * bool(rest)
        if count > 1:
            assert batch_sizes(toys.gptq(), targets, gpu_memory_bytes=card - 1)[0] == count - 1


def test_a_card_too_small_for_one_still_takes_them_one_by_one() -> None:
    assert batch_sizes(toys.gptq(), modules(3, 256, 256), gpu_memory_bytes=1) == [1, 1, 1]


def test_an_integer_is_the_cap_whatever_the_card() -> None:
    assert batch_sizes(toys.gptq(batched_quantization=4), modules(10, 256, 256), gpu_memory_bytes=1) == [4, 4, 2]


def test_null_means_no_batches_even_on_a_large_card() -> None:
    assert batch_sizes(toys.gptq(batched_quantization=None), modules(3, 256, 256)) == [1, 1, 1]


def test_on_the_cpu_auto_takes_one_at_a_time() -> None:
    model, context = calibrated(toys.gptq(), modules(3, 256, 256))
    context.device = "cpu"
    assert [len(b) for b in model._batches(modules(3, 256, 256))] == [1, 1, 1]


def test_only_equal_shapes_and_schemes_share_a_batch() -> None:
    other = replace(W4A16, num_bits=8)
    mixed = [*modules(2, 256, 256), *modules(2, 256, 512), *modules(1, 256, 256), *modules(1, 256, 256, other)]
    targets = [replace(m, name=f"x{i}") for i, m in enumerate(mixed)]
    model, _ = calibrated(toys.gptq(), targets)
    assert [[m.name for m in batch] for batch in model._batches(targets)] == [["x0", "x1", "x4"], ["x2", "x3"], ["x5"]]


# ---------------------------------------------------------------------- while calibrating, and after
def test_modules_without_weight_scheme_get_no_hessian() -> None:
    module = toys.linear(scheme=toys.scheme(None))
    _, context = calibrated(toys.gptq(), [module])
    assert context.ledger.live("gpu") == 0


def test_an_embedding_is_never_hooked() -> None:
    _, context = calibrated(toys.gptq(), [toys.linear(scheme=toys.scheme(W4A16), embedding=True)])
    assert context.ledger.live("gpu") == 0


@pytest.mark.parametrize("spec", [toys.gptq(), toys.gptq(batched_quantization=None), toys.gptq(batched_quantization=2)])
def test_after_compressing_only_onloaded_parameters_are_left(spec: GPTQSpec) -> None:
    targets = modules(3, 256, 256)
    model, context = calibrated(spec, targets)
    model.on_sequential_epoch_end(targets)
    assert context.ledger.live_by_kind("gpu") == {"weights": sum(m.weight_bytes for m in targets)}
    assert not model.hessians.modules


def test_a_second_epoch_starts_from_nothing() -> None:
    targets = modules(2, 256, 256)
    model, context = calibrated(toys.gptq(), targets)
    peaks = []
    for _ in range(2):
        for module in targets:
            model.after_forward(module, toys.linear_call(module.name, TOKENS, 256, 256))
        context.ledger.close_step()
        model.on_sequential_epoch_end(targets)
        peaks.append(context.ledger.close_step()["gpu"].bytes)
        context.offload_all()
    assert peaks[0] == peaks[1]
