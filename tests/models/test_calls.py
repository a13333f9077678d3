"""The calls of modules that hooks see: which, where, with what."""

from typing import Any

import pytest
import torch

from planner.models.calls import around_iterations, beside
from planner.models.traces import KEY_STATES, VALUE_STATES, Call, Segment
from tests.models.tiny import BATCH, HEAD_DIM, HEADS, SEQ, WIDTH, Loader


def calls_of(segment: Segment, kind: str = "exit") -> dict[str, Call]:
    return {e.call.module: e.call for e in segment.events if e.kind == kind and e.call}


@pytest.mark.parametrize(
    ("targets", "segment"), [(None, 1), (("LlamaAttention", "LlamaMLP"), 1)], ids=["layer", "attention"]
)
def test_every_module_is_entered_and_left(tiny: Loader, targets: tuple[str, ...] | None, segment: int) -> None:
    running = tiny(sequential_targets=targets).trace.segments[segment]
    prefix = ".self_attn" if targets else ""
    attention = {f".self_attn.{name}_proj" for name in "qkvo"} | {".self_attn"}
    mlp = {f".mlp.{name}_proj" for name in ("gate", "up", "down")} | {".mlp", ".mlp.act_fn"}
    norms = {".input_layernorm", ".post_attention_layernorm"}
    # with attention as a target, its own names are relative and the norm after it is full
    expected = (
        {name.removeprefix(prefix) or "." for name in attention} | {"model.layers.0.post_attention_layernorm"}
        if targets
        else attention | mlp | norms | {"."}
    )
    states = {f"{(prefix and '.') or '.self_attn.'}{name}" for name in (KEY_STATES, VALUE_STATES)}
    assert set(calls_of(running, "enter")) == expected | states
    assert set(calls_of(running, "exit")) == expected


def test_a_cache_sees_the_keys_and_values_before_they_are_repeated_with_their_heads_side_by_side(tiny: Loader) -> None:
    entered = calls_of(tiny().trace.segments[1], "enter")
    for name, projection in ((KEY_STATES, ".self_attn.k_proj"), (VALUE_STATES, ".self_attn.v_proj")):
        states, made = entered[f".self_attn.{name}"], calls_of(tiny().trace.segments[1])[projection]
        batch, tokens, columns = made.output
        assert (states.rows, states.columns, states.itemsize) == (batch * tokens, columns, made.output_itemsize)
        assert states.dims[0] == batch
        assert states.dims[1] * states.dims[3] == columns
        assert states.contiguous


def test_a_targets_own_call_lies_in_the_segment_that_begins_with_it(tiny: Loader) -> None:
    for segment in tiny().trace.segments[1:]:
        first, *_, last = (e for e in segment.events if e.call and e.call.module.startswith("."))
        assert (first.kind, last.kind) == ("enter", "exit")
        assert first.call and last.call
        assert first.call.module == last.call.module == "."
        assert [v.name for v in last.call.outputs] == ["output"]


class Masked(torch.nn.Module):
    def forward(self, states: Any, mask: Any, scale: Any = None) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("args", "others", "must_have"),
    [
        (("states",), (), False),
        (("states", "mask", None), ("mask",), True),
        (("states", "mask", 2), ("mask", "scale"), True),
    ],
)
def test_a_call_names_what_a_hook_on_its_input_leaves_out(
    args: tuple[Any, ...], others: tuple[str, ...], must_have: bool
) -> None:
    assert beside(Masked(), args) == ({"others": others, "must_have": must_have} if len(args) > 1 else {})


def test_what_has_a_default_need_not_be_passed() -> None:
    class Scaled(torch.nn.Module):
        def forward(self, states: Any, scale: Any = None) -> None:
            raise NotImplementedError

    assert beside(Scaled(), ("states", 2)) == {"others": ("scale",), "must_have": False}
    assert beside(Scaled(), ("states", None)) == {"others": (), "must_have": False}


def test_the_calls_of_a_layer_pass_one_argument_by_position(tiny: Loader) -> None:
    assert {(call.others, call.must_have) for call in calls_of(tiny().trace.segments[1]).values()} == {((), False)}


@pytest.mark.parametrize(
    ("targets", "layers"), [(None, False), (("LlamaAttention", "LlamaMLP"), True)], ids=["layer", "parts"]
)
def test_the_calls_of_modules_that_hold_targets_are_kept_apart(
    tiny: Loader, targets: tuple[str, ...] | None, layers: bool
) -> None:
    held = tiny(sequential_targets=targets).trace.held
    assert {"", "model"} <= held.keys()
    assert ("model.layers.0" in held) is layers
    assert not held["model"][0].leads
    found = [call for calls in held.values() for call in calls]
    assert {(call.holds_targets, call.in_graph) for call in found} == {(True, layers)}
    assert "model.layers" not in held


def test_modules_that_are_gone_through_are_named() -> None:
    run = torch.nn.Sequential(torch.nn.Identity())
    seen: list[torch.nn.Module] = []
    with around_iterations(torch.nn.Sequential, seen.append):
        run(torch.ones(1))
        list(run[:1].children())
    list(run)
    assert seen == [run]


def test_modules_that_hold_targets_are_not_called_as_modules(tiny: Loader) -> None:
    names = {name for segment in tiny().trace.segments for name in calls_of(segment)}
    assert names.isdisjoint({"", "model", "model.layers"})
    assert {"model.embed_tokens", "model.norm", "lm_head"} <= names


@pytest.mark.parametrize("targets", [None, ("LlamaAttention", "LlamaMLP")], ids=["layer", "parts"])
def test_whatever_an_attention_block_is_passed_is_found_again(tiny: Loader, targets: tuple[str, ...] | None) -> None:
    trace = tiny(sequential_targets=targets).trace
    segment = trace.segments[1]
    call = calls_of(segment)["." if targets else ".self_attn"]
    sizes = {"hidden_states": BATCH * SEQ * WIDTH * 2, "attention_mask": BATCH * SEQ * SEQ * 2, "position_ids": SEQ * 8}
    sizes |= {f"position_embeddings.{i}": SEQ * HEAD_DIM * 2 for i in range(2)}
    assert {value.name: value.bytes for value in call.arguments} == sizes
    allocated = {e.id for e in segment.events if e.kind == "alloc"}
    for value in call.arguments:
        if value.storage >= 0:
            assert value.storage in allocated
        else:
            assert trace.crossings[segment.reads[value.read]].bytes == value.bytes
    assert [(v.name, v.dims) for v in call.outputs] == [
        ("output.0", (BATCH, SEQ, WIDTH)),
        ("output.1", (BATCH, HEADS, SEQ, SEQ)),
    ]
