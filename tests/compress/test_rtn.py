"""QuantizationModifier: input observers while calibrating, weights and their scales at the epoch's end."""

from collections.abc import Sequence
from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.rtn import QuantizationModel
from planner.recipe.qparams import qparam_bytes
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from tests import toys

CHANNEL = toys.weights(strategy="channel", group_size=None)
NVFP4: dict[str, Any] = {
    "type": "float",
    "strategy": "tensor_group",
    "group_size": 16,
    "scale_dtype": "float8_e4m3fn",
    "zp_dtype": "float8_e4m3fn",
}
TOKENS = 30


@pytest.fixture
def context() -> Context:
    return Context(toys.job())


def static(args: QuantArgs | None = None, **changes: Any) -> LinearModule:
    return toys.linear(scheme=toys.scheme(CHANNEL, input_activations=args or toys.static_input()), **changes)


# ---------------------------------------------------------------------- while calibrating
def observed(context: Context, module: LinearModule, batches: int) -> list[int]:
    """Peak GPU bytes of each batch's hooks."""
    model, peaks = QuantizationModel(context), []
    call = toys.linear_call(module.name, TOKENS, module.rows, module.columns, module.itemsize)
    for _ in range(batches):
        model.before_forward(module, call)
        model.after_forward(module, call)
        peaks.append(context.ledger.close_step()["gpu"].bytes)
    return peaks


def test_an_input_observer_keeps_one_minimum_and_one_maximum(context: Context) -> None:
    observed(context, static(), 1)
    assert context.ledger.live_by_kind("gpu") == {"observer": 2 * 2}


def test_running_averages_need_old_new_and_both_summands(context: Context) -> None:
    extreme = 2  # bytes of one bf16 value
    kept, fresh, summands, average = 2 * extreme, 2 * extreme, 2 * extreme, extreme
    assert observed(context, static(), 2) == [2 * extreme, kept + fresh + summands + average]


def test_a_static_minmax_takes_the_larger_without_averaging(context: Context) -> None:
    args = toys.static_input(observer="static_minmax")
    extreme = 2
    assert observed(context, static(args), 2) == [2 * extreme, 2 * extreme + 2 * extreme + extreme]


@pytest.mark.parametrize("observer", ["memoryless_minmax", "memoryless_mse", "nvfp4_expanded_mse", "fouroversix"])
def test_an_observer_without_memory_forgets_the_range_before(observer: str) -> None:
    # mse.py NVFP4ExpandedMSEObserver is a MemorylessMSEObserver, fouroversix another name of it
    args, extremes = toys.static_input(observer=observer), 2 * 2
    first, second = observed(Context(job=toys.job()), static(args), 2)
    assert second == first + extremes


def test_statistics_do_not_grow_with_the_batches(context: Context) -> None:
    peaks = observed(context, static(), 6)
    assert len(set(peaks[1:])) == 1
    assert context.ledger.live("gpu") == 2 * 2


def test_groups_of_columns_have_an_extreme_each(context: Context) -> None:
    args = toys.static_input(**(NVFP4 | {"dynamic": "local", "observer": "static_minmax"}))
    observed(context, static(args), 1)
    assert context.ledger.live("gpu") == 2 * (256 // 16) * 2


def test_output_observers_take_the_outputs_dtype(context: Context) -> None:
    module = toys.linear(itemsize=4, scheme=toys.scheme(CHANNEL, output_activations=toys.static_input()))
    observed(context, module, 1)
    assert context.ledger.live("gpu") == 2 * 4


def test_an_observed_output_is_quantized_and_back_at_once(context: Context) -> None:
    module = toys.linear(scheme=toys.scheme(CHANNEL, output_activations=toys.static_input()))
    output, extremes = TOKENS * module.rows * 2, 2 * 2
    # scaled, rounded and dequantized outputs, and a product beside them
    assert observed(context, module, 1) == [extremes + 4 * output]
    assert context.ledger.live("gpu") == extremes


@pytest.mark.parametrize("inputs", [None, toys.static_input(strategy="token", dynamic=True, observer=None)])
def test_weight_only_and_dynamic_schemes_observe_no_activations(context: Context, inputs: QuantArgs | None) -> None:
    module = toys.linear(scheme=toys.scheme(CHANNEL, input_activations=inputs))
    assert observed(context, module, 2) == [0, 0]


def test_an_expert_without_tokens_is_not_observed(context: Context) -> None:
    model, module = QuantizationModel(context), static()
    model.before_forward(module, toys.linear_call(module.name, 0, module.rows, module.columns))
    assert context.ledger.live("gpu") == 0


# ---------------------------------------------------------------------- at the epoch's end
def squares(count: int, args: QuantArgs = CHANNEL, **changes: Any) -> list[LinearModule]:
    return [toys.linear(f"m{i}", scheme=toys.scheme(args, **changes)) for i in range(count)]


def compress(context: Context, modules: Sequence[LinearModule]) -> int:
    QuantizationModel(context).on_sequential_epoch_end(modules)
    return context.ledger.close_step()["gpu"].bytes


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_weights_are_observed_before_the_first_scale_is_computed(context: Context, count: int) -> None:
    modules = squares(count)
    s = modules[0].rows * 2  # bytes of one extreme of each row
    assert compress(context, modules) == count * modules[0].weight_bytes + count * 2 * s + 7 * s


@pytest.mark.parametrize("count", [1, 2, 5])
def test_without_data_one_weight_at_a_time_is_there(context: Context, count: int) -> None:
    context.keep_onloaded = False
    modules = squares(count)
    s = modules[0].rows * 2
    assert compress(context, modules) == count * 2 * s + max(modules[0].weight_bytes, 7 * s)


def test_after_the_epoch_only_onloaded_weights_and_qparams_are_left(context: Context) -> None:
    modules = squares(3)
    compress(context, modules)
    assert context.ledger.live_by_kind("gpu") == {
        "weights": 3 * modules[0].weight_bytes,
        "qparams": sum(map(qparam_bytes, modules)),
    }
    context.offload_all()
    assert context.ledger.live("gpu") == 0


def test_input_statistics_go_at_the_epochs_end(context: Context) -> None:
    model, module = QuantizationModel(context), static()
    model.before_forward(module, toys.linear_call(module.name, TOKENS, 256, 256))
    model.on_sequential_epoch_end([module])
    assert "observer" not in context.ledger.live_by_kind("gpu")


def test_modules_that_the_library_never_shows_to_the_epoch_end_stay_as_they_are(context: Context) -> None:
    modules = [toys.linear(scheme=toys.scheme(CHANNEL), observed=False)]
    assert compress(context, modules) == 0


def test_a_scale_that_changes_its_dtype_passes_through_the_cpu(context: Context) -> None:
    module = squares(1, toys.weights(**NVFP4))[0]
    compress(context, [module])
    scales = module.rows * module.columns // 16
    QuantizationModel(context).on_sequential_epoch_end([module])
    cpu = context.ledger.close_step()["cpu"]
    assert (cpu.bytes, cpu.end) == (4 * scales, 0)  # computed in fp32, stored in bf16


def test_scales_of_the_stored_dtype_touch_no_cpu_memory(context: Context) -> None:
    QuantizationModel(context).on_sequential_epoch_end(squares(2))
    assert context.ledger.close_step()["cpu"].bytes == 0


# ---------------------------------------------------------------------- stored on the CPU
@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({"strategy": "tensor", "group_size": None}, 1),
        ({"strategy": "channel", "group_size": None}, 300),
        ({"strategy": "group", "group_size": 128}, 300 * 4),
        ({"strategy": "block", "group_size": None, "block_structure": (128, 128)}, 3 * 4),
        ({"symmetric": False, "strategy": "channel", "group_size": None}, 300),
    ],
)
@pytest.mark.parametrize("itemsize", [2, 4])
def test_a_weight_stores_scales_of_its_dtype_and_int8_zero_points(
    changes: dict[str, Any], scales: int, itemsize: int
) -> None:
    module = toys.linear(rows=300, columns=500, itemsize=itemsize, scheme=toys.scheme(toys.weights(**changes)))
    assert qparam_bytes(module) == scales * (itemsize + 1)


def test_nvfp4_stores_a_global_scale_for_weights_and_one_for_inputs() -> None:
    local = toys.static_input(**(NVFP4 | {"dynamic": "local", "observer": "static_minmax"}))
    module = toys.linear(rows=300, columns=480, scheme=toys.scheme(toys.weights(**NVFP4), input_activations=local))
    scales = 300 * 480 // 16
    assert qparam_bytes(module) == scales * (2 + 1) + 4 + 4


def test_static_activations_store_one_scale_and_zero_point_dynamic_ones_nothing() -> None:
    weight_only = qparam_bytes(toys.linear(scheme=toys.scheme(CHANNEL)))
    dynamic = toys.static_input(strategy="token", dynamic=True)
    assert qparam_bytes(static()) - weight_only == 2 + 1
    assert qparam_bytes(static(dynamic)) == weight_only


def test_a_module_without_a_scheme_stores_nothing() -> None:
    assert qparam_bytes(toys.linear()) == 0
