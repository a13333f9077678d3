"""The rules of the guides: what they say, and that they stay rules (linear, whole bytes)."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import UnsupportedError
from planner.serving.rules_of_thumb import (
    OPTIMIZER_STATES,
    OVERHEAD_BYTES,
    OVERHEAD_SHARE,
    activation_rule,
    grouped_kv_cache_rule,
    kv_cache_rule,
    total_rule,
    training_rule,
    weight_rule,
)
from planner.units import GIB

few = st.integers(min_value=1, max_value=2**20)


def test_a_trillion_weights_of_231_hundredths_of_a_bit() -> None:
    assert weight_rule(10**12, Fraction(231, 100)) == 288_750_000_000
    assert weight_rule(10**12, Fraction(231, 100), Fraction(1, 5)) == 346_500_000_000


def test_a_part_of_a_byte_is_a_byte() -> None:
    assert weight_rule(1, Fraction(1, 1000)) == 1
    assert kv_cache_rule(1, 1, 1, 1, Fraction(1, 4)) == 1
    assert weight_rule(0, 16) == 0


def test_overhead_is_a_share_of_the_weights() -> None:
    lowest, highest = (weight_rule(10**10, 16, share) for share in OVERHEAD_SHARE)
    assert (lowest, highest) == (22 * 10**9, 26 * 10**9)


def test_multi_head_and_grouped_caches_of_a_70b_model_differ_by_the_heads_that_share() -> None:
    # Llama-2-70B: 80 layers, hidden size 8192 = 64 heads of 128, 8 key-value heads
    multi = kv_cache_rule(8, 4096, 8192, 80)
    grouped = grouped_kv_cache_rule(8, 4096, 8, 128, 80)
    assert (multi, grouped) == (80 * GIB, 10 * GIB)


def test_activations_of_a_70b_model_are_two_and_a_half_gib() -> None:
    assert activation_rule(1, 2048, 8192, 80) == 5 * GIB // 2


def test_a_total_is_the_sum_of_its_parts() -> None:
    assert total_rule(1, 2, 3, 4) == 10
    assert total_rule(0, 0, 0) == OVERHEAD_BYTES[1]


@pytest.mark.parametrize(("optimizer", "states"), OPTIMIZER_STATES.items())
def test_training_multiplies_the_weights(optimizer: str, states: int) -> None:
    parts = training_rule(1000, optimizer)
    assert parts["optimizer_states"] == states * 1000
    assert parts["lower"] == (2 + states) * 1000 + 1200
    assert parts["upper"] == (2 + states) * 1000 + 1500


def test_an_optimizer_without_a_number_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="sgd"):
        training_rule(1000, "sgd")


@given(few, few, few, few)
def test_caches_and_activations_grow_in_step_with_every_factor(
    batch: int, tokens: int, width: int, layers: int
) -> None:
    assert kv_cache_rule(2 * batch, tokens, width, layers) == kv_cache_rule(batch, 2 * tokens, width, layers)
    assert kv_cache_rule(batch, tokens, width, layers) == 2 * activation_rule(batch, tokens, width, layers)
    assert kv_cache_rule(batch, tokens, width, 2 * layers) == 2 * kv_cache_rule(batch, tokens, width, layers)


@given(few, st.fractions(min_value=0, max_value=32), st.fractions(min_value=0, max_value=1))
def test_weights_are_rounded_up_by_less_than_a_byte(params: int, bits: Fraction, overhead: Fraction) -> None:
    exact = params * bits / 8 * (1 + overhead)
    assert 0 <= weight_rule(params, bits, overhead) - exact < 1
