"""Accumulating a Hessian: fp32, columns x columns, beside the fp32 input and its scaled copy."""

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.hessian import Hessians, hessian_bytes
from tests import toys

N, ROWS = 100, 50
HESSIAN = 4 * N * N
WEIGHT = ROWS * N * 2
"""make_empty_hessian reads the weight, so it is onloaded from then on."""


@pytest.fixture
def context() -> Context:
    return Context(toys.job())


def accumulate(hessians: Hessians, context: Context, tokens: int, *, itemsize: int = 2, contiguous: bool = True) -> int:
    """Peak GPU bytes of one call."""
    module = toys.linear(rows=ROWS, columns=N, itemsize=itemsize)
    hessians.accumulate(module, toys.linear_call(module.name, tokens, ROWS, N, itemsize, contiguous=contiguous))
    return context.ledger.close_step()["gpu"].bytes


def test_a_hessian_is_fp32_and_square_in_the_inputs() -> None:
    assert hessian_bytes(N) == HESSIAN


@pytest.mark.parametrize("tokens", [1, N, 1000])
def test_the_input_in_fp32_then_its_scaled_copy_then_the_product(context: Context, tokens: int) -> None:
    fp32 = tokens * N * 4
    assert accumulate(Hessians(context), context, tokens) == WEIGHT + HESSIAN + max(fp32 + fp32, fp32 + HESSIAN)
    assert context.ledger.live_by_kind("gpu") == {"hessian": HESSIAN, "weights": WEIGHT}


def test_later_batches_find_the_hessian_there(context: Context) -> None:
    hessians = Hessians(context)
    first, second = (accumulate(hessians, context, 10) for _ in range(2))
    assert first == second
    assert context.ledger.live("gpu") == WEIGHT + HESSIAN


def test_an_fp32_input_needs_no_fp32_copy(context: Context) -> None:
    fp32 = 1000 * N * 4
    assert accumulate(Hessians(context), context, 1000, itemsize=4) == 2 * WEIGHT + HESSIAN + max(fp32, fp32 + HESSIAN)


def test_an_input_that_is_not_contiguous_is_copied_first(context: Context) -> None:
    tokens = 1000
    peak = accumulate(Hessians(context), context, tokens, contiguous=False)
    assert peak == WEIGHT + HESSIAN + tokens * N * 2 + 2 * tokens * N * 4


def test_gptq_also_counts_samples_on_the_device(context: Context) -> None:
    accumulate(Hessians(context, counter_bytes=4), context, 10)
    assert context.ledger.live_by_kind("gpu") == {"hessian": HESSIAN, "weights": WEIGHT, "hessian_update": 4}


def test_each_module_has_its_own_hessian_in_the_order_of_first_calls(context: Context) -> None:
    hessians = Hessians(context)
    for name in ("b", "a", "b"):
        module = toys.linear(name, rows=ROWS, columns=N)
        hessians.accumulate(module, toys.linear_call(name, 10, ROWS, N))
    assert list(hessians.modules) == ["b", "a"]
    assert context.ledger.live("gpu") == 2 * (WEIGHT + HESSIAN)


def test_a_weight_that_the_forward_onloaded_is_not_onloaded_again(context: Context) -> None:
    context.onload("linear.weight", WEIGHT)
    accumulate(Hessians(context), context, 10)
    assert context.ledger.live_by_kind("gpu")["weights"] == WEIGHT


def test_taking_a_hessian_out_hands_it_to_the_caller(context: Context) -> None:
    hessians = Hessians(context, counter_bytes=4)
    accumulate(hessians, context, 10)
    handles = [hessians.pop("linear"), hessians.pop_counter("linear")]
    assert [context.ledger.size(h) for h in handles if h is not None] == [HESSIAN, 4]
    assert not hessians.modules


# ---------------------------------------------------------------------- offload_hessians
def test_an_offloaded_hessian_waits_on_the_cpu(context: Context) -> None:
    accumulate(Hessians(context, offload=True), context, 10)
    assert (context.ledger.live("gpu"), context.ledger.live_by_kind("cpu")) == (WEIGHT, {"hessian": HESSIAN})


def test_an_offloaded_hessian_comes_back_for_each_batch(context: Context) -> None:
    hessians, tokens = Hessians(context, offload=True), 10
    peaks = [accumulate(hessians, context, tokens) for _ in range(2)]
    assert peaks == [WEIGHT + HESSIAN + tokens * N * 4 + HESSIAN] * 2
    assert (context.ledger.live("gpu"), context.ledger.live("cpu")) == (WEIGHT, HESSIAN)
