"""Observers and calculate_qparams, tensor by tensor: s bytes of minima, c scales."""

import math
from dataclasses import replace
from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.observers import WeightObservers, siblings_of
from planner.compress.qparams import QParams, calculate_qparams
from planner.errors import UnsupportedError
from planner.recipe.qparams import scale_count
from planner.recipe.specs import QuantArgs
from planner.upstream import MSE_TILE
from tests import toys

CHANNEL = toys.weights(strategy="channel", group_size=None)
NVFP4: dict[str, Any] = {
    "type": "float",
    "strategy": "tensor_group",
    "group_size": 16,
    "scale_dtype": "float8_e4m3fn",
    "zp_dtype": "float8_e4m3fn",
}


@pytest.fixture
def context() -> Context:
    return Context(toys.job())


# ---------------------------------------------------------------------- how many scales
@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"strategy": "tensor"}, 1),
        ({"strategy": "channel"}, 300),
        ({"strategy": "group", "group_size": 128}, 300 * 4),  # 500 columns: the last group is narrower
        ({"strategy": "tensor_group", "group_size": 16}, 300 * 32),
        ({"strategy": "block", "block_structure": (128, 128)}, 3 * 4),
        ({"strategy": "block", "block_structure": (100, 250)}, 3 * 2),
    ],
)
def test_a_weight_has_as_many_scales_as_its_strategy_says(changes: dict[str, Any], count: int) -> None:
    assert scale_count(300, 500, toys.weights(**changes)) == count


@pytest.mark.parametrize("changes", [{"strategy": "token"}, {"strategy": "group", "group_size": None}])
def test_impossible_strategies_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        scale_count(300, 500, toys.weights(**changes))


# ---------------------------------------------------------------------- calculate_qparams
def qparams_peak(context: Context, args: QuantArgs, count: int, itemsize: int) -> tuple[int, QParams]:
    with context.frame("observer", "module") as frame:
        result = calculate_qparams(frame, count, itemsize, args)
    return context.ledger.close_step()["gpu"].bytes, result


@pytest.mark.parametrize("itemsize", [2, 4])
def test_symmetric_scales_peak_while_zero_points_are_clamped_and_rounded(context: Context, itemsize: int) -> None:
    c = 1000
    s = c * itemsize
    peak, result = qparams_peak(context, CHANNEL, c, itemsize)
    # mins, maxs, max_val_pos, scale, zero_point; clamped and rounded zero_point beside them
    assert peak == 5 * s + 2 * s
    assert (result.scale_bytes, result.zero_point_bytes) == (s, c)
    assert context.ledger.live("gpu") == s + c


def test_asymmetric_scales_keep_no_largest_magnitude(context: Context) -> None:
    c, s = 1000, 2000
    peak, result = qparams_peak(context, replace(CHANNEL, symmetric=False), c, 2)
    # mins, maxs, scale, zero_point; clamped and rounded zero_point beside them
    assert peak == 4 * s + 2 * s
    assert context.ledger.live("gpu") == result.scale_bytes + result.zero_point_bytes == s + c


def test_float_zero_points_are_not_rounded(context: Context) -> None:
    c, s = 1000, 2000
    peak, result = qparams_peak(context, replace(CHANNEL, type="float", zp_dtype="float8_e4m3fn"), c, 2)
    # five names; then either the clamped zero points and their fp8, or the new scale and its mask
    assert peak == 5 * s + max(s + c, c + s)
    assert result.zero_point_bytes == c


def test_a_global_scale_makes_the_scales_fp32_and_rounding_them_sets_the_peak(context: Context) -> None:
    c, s = 1000, 2000
    peak, result = qparams_peak(context, toys.weights(**NVFP4), c, 2)
    scale, rounded = 4 * c, c
    # mins, maxs, max_val_pos, zero_point; fp32 scale, its clamped copy and the fp8 one
    assert peak == 4 * s + scale + scale + rounded
    assert result.scale_bytes == scale
    assert context.ledger.live("gpu") == scale + c + 4
    assert result.global_scale is not None
    assert context.ledger.size(result.global_scale) == 4


def test_scales_may_be_rounded_without_a_global_scale(context: Context) -> None:
    """MXFP4: scales are rounded to powers of two, and stay in the weight's dtype."""
    c, s = 1000, 2000
    peak, result = qparams_peak(context, toys.weights(scale_dtype="uint8"), c, 2)
    assert peak == 5 * s + max(s + c, 2 * s)
    assert (result.scale_bytes, result.global_scale) == (s, None)


# ---------------------------------------------------------------------- weight observers
def observe(context: Context, module: Any) -> tuple[int, dict[str, int]]:
    WeightObservers(context).observe(module)
    peak = context.ledger.close_step()["gpu"]
    return peak.bytes, context.ledger.live_by_kind("gpu")


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (toys.weights(strategy="tensor"), 1),
        (CHANNEL, 256),
        (toys.weights(group_size=64), 256 * 4),
        (toys.weights(**NVFP4), 256 * 16),
    ],
)
def test_minima_and_maxima_are_all_that_a_memoryless_observer_takes(
    context: Context, args: QuantArgs, count: int
) -> None:
    module = toys.linear(scheme=toys.scheme(args))
    statistics = 2 * count * module.itemsize
    peak, live = observe(context, module)
    assert peak == module.weight_bytes + statistics
    assert live == {"weights": module.weight_bytes, "observer": statistics}


def test_blocks_are_laid_side_by_side_in_a_copy(context: Context) -> None:
    module = toys.linear(
        rows=256, columns=512, scheme=toys.scheme(toys.weights(strategy="block", block_structure=(128, 128)))
    )
    peak, live = observe(context, module)
    statistics = 2 * (2 * 4) * module.itemsize
    assert peak == module.weight_bytes + module.weight_bytes + statistics
    assert live["observer"] == statistics


def test_a_weight_of_odd_shape_is_padded_to_whole_blocks_first(context: Context) -> None:
    module = toys.linear(
        rows=200, columns=300, scheme=toys.scheme(toys.weights(strategy="block", block_structure=(128, 128)))
    )
    peak, _ = observe(context, module)
    padded, statistics = 256 * 384 * module.itemsize, 2 * (2 * 3) * module.itemsize
    assert peak == module.weight_bytes + 2 * padded + statistics


def test_a_module_without_weight_arguments_is_not_observed(context: Context) -> None:
    peak, live = observe(context, toys.linear(scheme=toys.scheme(None)))
    assert (peak, live) == (0, {})


def test_a_weight_is_observed_once(context: Context) -> None:
    observers, module = WeightObservers(context), toys.linear(scheme=toys.scheme(CHANNEL))
    observers.observe(module)
    context.ledger.close_step()
    before = context.ledger.live("gpu")
    observers.observe(module)
    assert context.ledger.close_step()["gpu"].bytes == before


def test_the_statistics_of_equal_modules_add_up(context: Context) -> None:
    module = toys.linear(scheme=toys.scheme(CHANNEL), copies=5)
    WeightObservers(context).observe(module)
    assert context.ledger.live_by_kind("gpu")["observer"] == 5 * 2 * module.rows * module.itemsize


# ---------------------------------------------------------------------- iMatrix, and searches without a kernel
IMATRIX = replace(CHANNEL, observer="imatrix_mse")


def test_the_imatrix_search_quantizes_the_whole_weight_beside_its_fp32_copy_and_the_last_candidate(
    context: Context,
) -> None:
    module = toys.linear(rows=256, columns=512, scheme=toys.scheme(IMATRIX))
    n, c = 256 * 512, 256
    # observed_f and the last candidate's q in fp32; scaled, rounded, dequantized and their product in bf16
    whole = 2 * 4 * n + 4 * 2 * n
    # min_val, max_val, best_min, best_max, shrink_min, shrink_max, scales in bf16; best_error and err in fp32; improved
    # and the zero points (int8) are bytes
    names = 7 * 2 * c + 2 * 4 * c + c + c
    peak, live = observe(context, module)
    assert peak == module.weight_bytes + whole + names
    assert live["observer"] == 2 * 2 * c


def test_an_fp8_candidate_is_rounded_through_one_byte_an_element(context: Context) -> None:
    args = replace(IMATRIX, type="float", zp_dtype="float8_e4m3fn")
    peak, _ = observe(context, toys.linear(rows=256, columns=512, scheme=toys.scheme(args)))
    int8 = Context(toys.job())
    assert peak == observe(int8, toys.linear(rows=256, columns=512, scheme=toys.scheme(IMATRIX)))[0]


@pytest.mark.parametrize("changes", [{}, {"device": "cpu"}, {"num_bits": 16}], ids=["cuda", "cpu", "16 bits"])
def test_an_mse_search_without_its_kernel_holds_four_copies_of_the_weight(changes: dict[str, Any]) -> None:
    device = changes.pop("device", "gpu")
    context = Context(toys.job(), device=device)
    module = toys.linear(
        rows=256, columns=512, scheme=toys.scheme(replace(CHANNEL, observer="memoryless_mse", **changes))
    )
    WeightObservers(context).observe(module)
    peak = context.ledger.close_step()[device].bytes - (module.weight_bytes if device == "gpu" else 0)
    has_kernel = device == "gpu" and not changes
    assert (peak < module.weight_bytes) is has_kernel
    assert (4 * module.weight_bytes <= peak <= 4.1 * module.weight_bytes) is not has_kernel


def calibrated(columns: int = 512, rows: int = 64) -> tuple[Context, WeightObservers, Any, int]:
    """A module whose inputs were seen: context, observers, the module, and the peak of seeing them."""
    context = Context(toys.job())
    module = toys.linear(rows=256, columns=columns, scheme=toys.scheme(IMATRIX))
    observers = WeightObservers(context)
    observers.importances.attach(module)
    context.ledger.close_step()
    observers.importances.accumulate(module, toys.linear_call(module.name, rows, 256, columns))
    return context, observers, module, context.ledger.close_step()["gpu"].bytes


def test_importances_are_a_sum_and_a_count_and_each_batch_takes_its_input_twice_in_fp32() -> None:
    context, observers, module, peak = calibrated()
    held = 512 * 4 + 8
    assert peak == held + 2 * 64 * 512 * 4 + 512 * 4
    assert context.ledger.live("gpu") == held
    observers.observe(module)
    context.ledger.free_all(observers.qparams(module, ()).handles)
    context.offload_all()
    assert context.ledger.live("gpu") == 0


def test_the_weight_is_on_the_gpu_for_a_moment_when_its_importances_are_attached(context: Context) -> None:
    module = toys.linear(rows=256, columns=512, scheme=toys.scheme(IMATRIX))
    WeightObservers(context).importances.attach(module)
    assert context.ledger.close_step()["gpu"].bytes == module.weight_bytes + 512 * 4 + 8
    assert context.ledger.live("gpu") == 512 * 4 + 8


def test_an_embedding_has_no_importances(context: Context) -> None:
    module = replace(toys.linear(rows=256, columns=512, scheme=toys.scheme(IMATRIX)), embedding=True)
    WeightObservers(context).importances.attach(module)
    assert context.ledger.live("gpu") == 0


def test_more_batches_hold_no_more_importances() -> None:
    context, observers, module, _ = calibrated()
    before = context.ledger.live("gpu")
    observers.importances.accumulate(module, toys.linear_call(module.name, 64, 256, 512))
    assert context.ledger.live("gpu") == before


# ---------------------------------------------------------------------- mean squared error
@pytest.mark.parametrize("columns", [MSE_TILE, 4 * MSE_TILE, 4 * MSE_TILE + 1])
def test_the_mse_search_keeps_one_error_per_step_scale_and_tile(context: Context, columns: int) -> None:
    steps = 20  # maxshrink 0.20 of a grid of 100
    tiles = math.ceil(columns / MSE_TILE) if columns > MSE_TILE else 0  # one tile needs no partial sums
    module = toys.linear(rows=256, columns=columns, scheme=toys.scheme(replace(CHANNEL, observer="memoryless_mse")))
    c, s = module.rows, module.rows * module.itemsize
    wide, errors = 4 * c, steps * c * tiles * 4
    # min and max as observed and as bases, zp_base, best_step, best_p; then the second extreme in
    # fp32, shrunk, and its bf16 result beside the first one
    names = 4 * s + 3 * wide + errors
    peak, live = observe(context, module)
    assert peak == module.weight_bytes + names + 2 * wide + 2 * s
    assert live["observer"] == 2 * s


def test_a_finer_grid_keeps_more_errors(context: Context) -> None:
    coarse, fine = Context(toys.job()), context
    args = replace(CHANNEL, observer="memoryless_mse")
    options = (("maxshrink", 0.5), ("grid", 200.0))
    few, _ = observe(coarse, toys.linear(columns=2048, scheme=toys.scheme(args)))
    many, _ = observe(fine, toys.linear(columns=2048, scheme=toys.scheme(replace(args, observer_kwargs=options))))
    assert many - few == (100 - 20) * 256 * (2048 // MSE_TILE) * 4


# ---------------------------------------------------------------------- fused siblings
def test_gate_and_up_are_siblings_when_both_are_targeted() -> None:
    names = frozenset({"a.gate_proj", "a.up_proj", "a.down_proj", "b.up_proj"})
    assert siblings_of("a.up_proj", names) == ("a.gate_proj", "a.up_proj")
    assert siblings_of("a.down_proj", names) == ()
    assert siblings_of("b.up_proj", names) == ()


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj"])
def test_query_key_and_value_are_siblings(name: str) -> None:
    names = tuple(f"attn.{n}" for n in ("q_proj", "k_proj", "v_proj"))
    assert siblings_of(f"attn.{name}", frozenset(names)) == names


def pair_after_one(context: Context, args: QuantArgs) -> tuple[int, int]:
    """Live observer bytes once the first of two siblings has its scales, and bytes of one's statistics."""
    first, second = (toys.linear(name, scheme=toys.scheme(args)) for name in ("m.gate_proj", "m.up_proj"))
    observers = WeightObservers(context)
    observers.observe(first)
    one = context.ledger.live_by_kind("gpu")["observer"]
    observers.observe(second)
    context.ledger.free_all(observers.qparams(first, ("m.gate_proj", "m.up_proj")).handles)
    half = context.ledger.live_by_kind("gpu")["observer"]
    context.ledger.free_all(observers.qparams(second, ("m.gate_proj", "m.up_proj")).handles)
    assert "observer" not in context.ledger.live_by_kind("gpu")
    return half, one


def test_fused_statistics_go_together(context: Context) -> None:
    half, one = pair_after_one(context, toys.weights(**NVFP4))
    assert half == 2 * one


def test_statistics_without_a_global_scale_go_one_by_one(context: Context) -> None:
    half, one = pair_after_one(context, CHANNEL)
    assert half == one
