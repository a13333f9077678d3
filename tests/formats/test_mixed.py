"""Mixed precision: the laws of an allocation, and the order that llama.cpp's mixtures gave."""

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import JobError
from planner.formats.mixed import (
    Allocation,
    Upgrade,
    allocate,
    default_order,
    fused_order,
    mixed_model,
    place_of,
    quantizable,
    ranges,
    role_of,
)
from planner.formats.registry import find_format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import StoredModel, Weight
from tests.formats.full_size import served

LADDERS = {
    "llama-2-70b": ("exl2:2.5", "exl2:3", "exl2:4", "exl2:6"),
    "mixtral-8x7b": ("W4A16", "W8A16", "bf16"),
    "qwen3-8b": ("ggml:Q2_K", "ggml:Q4_K", "ggml:Q6_K", "ggml:Q8_0"),
}
budgets = st.floats(min_value=0, max_value=1.2)


@cache
def ladder(model: str) -> tuple[StoredModel, ...]:
    return tuple(find_format(name).store(served(model)) for name in LADDERS[model])


def span(model: str) -> tuple[int, int]:
    """GPU bytes of the quantizable tensors at the smallest and at the largest choice."""
    stored = ladder(model)
    low, high = (sum(stored[end].tensors[n].gpu_bytes for n in quantizable(stored)) for end in (0, -1))
    return low, high


def order(model: str) -> tuple[Upgrade, ...]:
    return (fused_order if "W4A16" in LADDERS[model] else default_order)(served(model))


def spend(model: str, share: float) -> Allocation:
    """A budget that is so far from the smallest to the largest choice."""
    low, high = span(model)
    return allocate(ladder(model), low + int(share * (high - low)), order(model), served(model).layers)


@pytest.mark.parametrize("model", LADDERS)
@given(share=budgets)
@settings(max_examples=25, deadline=None)
def test_a_budget_is_never_exceeded_and_the_average_is_between_the_choices(model: str, share: float) -> None:
    made = spend(model, share)
    assert made.gpu_bytes <= made.budget_bytes
    stored = ladder(model)
    ends = [sum(stored[end].tensors[n].file_bytes for n in quantizable(stored)) for end in (0, -1)]
    assert 8 * ends[0] <= made.bits * made.elements <= 8 * ends[1]


@pytest.mark.parametrize("model", LADDERS)
@given(shares=st.tuples(budgets, budgets))
@settings(max_examples=25, deadline=None)
def test_a_larger_budget_never_lowers_a_tensor(model: str, shares: tuple[float, float]) -> None:
    less, more = (spend(model, share) for share in sorted(shares))
    assert all(a <= b for a, b in zip(less.rungs, more.rungs, strict=True))


@pytest.mark.parametrize("model", LADDERS)
@given(share=budgets)
@settings(max_examples=10, deadline=None)
def test_the_parts_sum_to_the_whole(model: str, share: float) -> None:
    made = spend(model, share)
    parts = made.parts()
    assert sum(part.gpu_bytes for part in parts) == made.gpu_bytes
    assert sum(part.file_bytes for part in parts) == made.file_bytes
    assert sum(part.elements for part in parts) == made.elements
    whole, lowest = mixed_model(ladder(model), made), ladder(model)[0]
    kept = lowest.gpu_bytes - span(model)[0]
    assert whole.gpu_bytes == kept + made.gpu_bytes
    assert whole.elements == lowest.elements


@pytest.mark.parametrize("model", LADDERS)
def test_the_ends_are_the_smallest_and_the_largest_choice(model: str) -> None:
    assert set(spend(model, 0).rungs) == {0}
    highest = spend(model, 1)
    assert set(highest.rungs) == {len(LADDERS[model]) - 1}
    assert highest.left_bytes == 0


def test_what_is_left_over_is_less_than_the_next_layer_needs() -> None:
    made = spend("llama-2-70b", 0.4)
    stored = ladder("llama-2-70b")
    widest = max(
        stored[-1].tensors[n].gpu_bytes - stored[0].tensors[n].gpu_bytes for n in quantizable(stored)
    )  # gate and up of one layer go together
    assert 0 <= made.left_bytes < 2 * widest


def test_one_byte_less_than_the_smallest_choice_is_refused() -> None:
    with pytest.raises(JobError, match=r"exl2:2\.5 needs 19\.\d+ GiB"):
        allocate(ladder("llama-2-70b"), span("llama-2-70b")[0] - 1, order("llama-2-70b"), 80)


SHARED_AND_ALONE = ("llama-2-70b", "llama-2-7b")


def test_values_lead_by_two_where_heads_share_them() -> None:
    # llama-quant.cpp: Q2_K keeps attn_v in Q4_K where n_gqa >= 4, in Q3_K elsewhere
    shared, alone = (next(s for s in default_order(served(m)) if s.roles == ("value",)) for m in SHARED_AND_ALONE)
    assert (shared.lead, alone.lead) == (2, 1)


def test_the_first_bits_go_to_values_then_to_the_down_projections_of_the_outer_layers() -> None:
    first = spend("llama-2-70b", 0.01)
    raised = {role_of(t.weight) for t, rung in zip(first.tensors, first.rungs, strict=True) if rung}
    assert raised == {"value", "down"}
    layers = {
        t.weight.layer
        for t, rung in zip(first.tensors, first.rungs, strict=True)
        if rung and role_of(t.weight) == "down"
    }
    assert layers <= {*range(10), *range(70, 80)}


@pytest.mark.parametrize("model", ["llama-2-70b", "mixtral-8x7b", "qwen3-8b", "deepseek-r1", "qwen2.5-vl-7b"])
@pytest.mark.parametrize("make", [default_order, fused_order])
def test_every_matrix_is_in_a_step(model: str, make: Callable[[ServedModel], tuple[Upgrade, ...]]) -> None:
    steps = make(served(model))
    for weight in served(model).weights:
        assert any(step.takes(weight, served(model).layers) for step in steps), weight.name


@given(share=budgets)
@settings(max_examples=25, deadline=None)
def test_vllm_gets_one_choice_for_what_it_fuses(share: float) -> None:
    # vllm compressed_tensors/utils.py: "vLLM requires all to use the same scheme"
    made = spend("mixtral-8x7b", share)
    kept: dict[tuple[int | None, str], set[int]] = {}
    for tensor, rung in zip(made.tensors, made.rungs, strict=True):
        role, weight = role_of(tensor.weight), tensor.weight
        fused = "experts" if weight.is_expert else "qkv" if role in ("value", "key", "query") else role
        kept.setdefault((weight.layer, fused), set()).add(rung)
    assert all(len(rungs) == 1 for rungs in kept.values())


def test_places_are_those_of_use_more_bits() -> None:
    # llama-quant.cpp use_more_bits for 32 layers: 0-3, 28-31, and every third between from 6 on
    assert [n for n in range(32) if place_of(n, 32) == "outer"] == [0, 1, 2, 3, 28, 29, 30, 31]
    assert [n for n in range(32) if place_of(n, 32) == "third"] == [6, 9, 12, 15, 18, 21, 24, 27]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.layers.0.self_attn.v_proj.weight", "value"),
        ("model.layers.0.self_attn.kv_b_proj.weight", "value"),
        ("model.layers.0.mlp.experts.*.down_proj.weight", "down"),
        ("transformer.h.0.attn.c_proj.weight", "output"),
        ("transformer.h.0.mlp.c_proj.weight", "down"),
        ("model.layers.0.mlp.shared_expert_gate.weight", "other"),
    ],
)
def test_a_role_is_read_from_the_last_name(name: str, role: str) -> None:
    assert role_of(Weight(name=name, shape=(8, 8), unit="decoder", layer=0)) == role


def test_layers_are_written_as_ranges() -> None:
    assert ranges([3, 0, 1, 2, 7, 9, 10]) == "0-3, 7, 9-10"
    assert ranges([]) == "-"
