"""The traced forward: exact bytes, what crosses the borders, and layers that are traced once."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from planner.compress.program import cut
from planner.job import Job
from planner.models import tracing
from planner.models.load import load_model
from planner.models.traces import Crossing, Event, ModelTrace, Segment
from tests.models.tiny import BATCH, HEAD_DIM, HEADS, KV_HEADS, MLP, SEQ, TINY, WIDTH, Loader


@pytest.fixture(scope="module")
def llama() -> ModelTrace:
    return load_model("llama-3-8b", Job(layers=3)).trace


def moments(segment: Segment) -> Iterator[tuple[Event, dict[int, int]]]:
    """Each event with what the forward's own allocations hold after it."""
    live: dict[int, int] = {}
    for event in segment.events:
        if event.kind == "alloc":
            live[event.id] = event.bytes
        elif event.kind == "free":
            del live[event.id]
        yield event, live


def peak(segment: Segment) -> int:
    return max(sum(live.values()) for _, live in moments(segment))


def onloads(segment: Segment) -> dict[str, int]:
    return {event.name: event.bytes for event in segment.events if event.kind == "onload"}


def crossing(trace: ModelTrace, segment: int, name: str) -> list[Crossing]:
    return [c for n in trace.segments[segment].reads if (c := trace.crossings[n]).name == name]


# ---------------------------------------------------------------------- Llama-3-8B, as measured
def test_a_sample_of_2048_tokens_crosses_with_26230784_bytes(llama: ModelTrace) -> None:
    seq, width, head_dim = 2048, 4096, 128
    found = {name: sum(c.bytes for c in crossing(llama, 1, name)) for name in names_read(llama, 1)}
    assert found == {
        "hidden_states": seq * width * 2,
        "attention_mask": seq * seq * 2,
        "position_embeddings": 2 * seq * head_dim * 2,  # cos and sin
        "position_ids": seq * 8,
    }
    assert sum(found.values()) == 26_230_784


def names_read(trace: ModelTrace, segment: int) -> list[str]:
    return list(dict.fromkeys(trace.crossings[n].name for n in trace.segments[segment].reads))


def test_head_and_layer_peak_as_the_real_library_does(llama: ModelTrace) -> None:
    assert peak(llama.segments[0]) == 29_908_992
    assert [peak(segment) for segment in llama.segments[1:]] == [1_417_674_752] * 3


def test_the_layers_peak_is_its_softmax_beside_what_attention_reads(llama: ModelTrace) -> None:
    seq, width, heads, kv, head_dim = 2048, 4096, 32, 8, 128
    scores = heads * seq * seq * (2 + 4 + 4)
    # normed hidden states; query and key rotated; value; key and value repeated for all heads
    states = width * 2 + (heads + kv) * head_dim * 2 + kv * head_dim * 2 + 2 * heads * head_dim * 2
    assert peak(llama.segments[1]) == scores + seq * states


def test_a_layer_onloads_its_own_weights_once(llama: ModelTrace) -> None:
    for segment in llama.segments[1:3]:
        assert sum(onloads(segment).values()) == 436_224_000
        assert all(name.startswith(".") for name in onloads(segment))
    assert sum(onloads(llama.segments[3]).values()) == 436_224_000 + 4096 * 2
    assert "model.norm.weight" in onloads(llama.segments[3])


def test_the_head_onloads_the_embedding_but_never_the_output_head(llama: ModelTrace) -> None:
    assert onloads(llama.segments[0])["model.embed_tokens.weight"] == 128_256 * 4096 * 2
    assert not any("lm_head" in name for segment in llama.segments for name in onloads(segment))


def test_samples_are_tokens_and_a_mask_in_int64(llama: ModelTrace) -> None:
    assert llama.sample_bytes == llama.batch_bytes == 2048 * (8 + 8)


# ---------------------------------------------------------------------- a tiny Llama, in closed form
@pytest.mark.parametrize(
    ("dtype", "bytes_per_score"), [("bfloat16", 2 + 4 + 4), ("float16", 2 + 4), ("float32", 4 + 4)]
)
def test_eager_scores_and_their_fp32_softmax_are_alive_together(tiny: Loader, dtype: str, bytes_per_score: int) -> None:
    layer = tiny(dtype=dtype).trace.segments[1]
    scores = BATCH * HEADS * SEQ * SEQ
    at_softmax = next(dict(live) for event, live in moments(layer) if event.name == ".self_attn softmax")
    of_scores = [nbytes for nbytes in at_softmax.values() if nbytes in (scores * 2, scores * 4)]
    assert sum(of_scores) == scores * bytes_per_score


def test_linears_are_called_with_all_tokens_of_the_batch(tiny: Loader) -> None:
    calls = {e.call.module: e.call for e in tiny().trace.segments[1].events if e.kind == "exit" and e.call}
    widths = {"q": WIDTH, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM, "o": WIDTH}
    for name, rows in widths.items():
        call = calls[f".self_attn.{name}_proj"]
        assert (call.rows, call.columns, call.dims) == (BATCH * SEQ, WIDTH, (BATCH, SEQ, WIDTH))
        assert call.output == (BATCH, SEQ, rows)
    assert calls[".mlp.down_proj"].columns == MLP


def test_hooks_surround_the_linears_output(tiny: Loader) -> None:
    events = [
        e for e in tiny().trace.segments[1].events if (e.call.module if e.call else e.name).startswith(".mlp.up_proj")
    ]
    assert [e.kind for e in events] == ["enter", "onload", "alloc", "exit"]
    assert events[2].bytes == BATCH * SEQ * MLP * 2


def test_the_output_heads_hook_sees_the_hidden_states_and_no_logits_are_allocated(tiny: Loader) -> None:
    last = tiny().trace.segments[-1]
    calls = [e.call for e in last.events if e.kind == "exit" and e.call and e.call.module == "lm_head"]
    assert [(c.rows, c.columns) for c in calls] == [(BATCH * SEQ, WIDTH)]
    assert not any("lm_head" in e.name for e in last.events)


def test_everything_a_layer_allocates_but_its_outputs_is_freed_in_it(tiny: Loader) -> None:
    for segment in tiny().trace.segments[1:-1]:
        *_, (_, left) = moments(segment)
        assert set(left) == {local for _, local in segment.writes}


def test_ids_are_fresh_and_freed_once_in_every_segment(tiny: Loader) -> None:
    for segment in tiny().trace.segments:
        made = [e.id for e in segment.events if e.kind == "alloc"]
        freed = [e.id for e in segment.events if e.kind == "free"]
        assert len(made) == len(set(made))
        assert len(freed) == len(set(freed))
        assert set(freed) <= set(made)


# ---------------------------------------------------------------------- what crosses
def test_crossings_grow_with_the_batch_where_their_first_dimension_does(tiny: Loader) -> None:
    trace = tiny().trace
    batched = {trace.crossings[n].name: trace.crossings[n].batched for n in trace.segments[1].reads}
    assert batched == {
        "hidden_states": True,
        "attention_mask": True,
        "position_embeddings": False,
        "position_ids": False,
    }


def test_the_head_reads_the_batch_and_layers_read_only_what_segments_made(tiny: Loader) -> None:
    trace = tiny().trace
    assert [trace.crossings[n].name for n in trace.segments[0].reads] == ["input_ids", "attention_mask"]
    for segment in trace.segments[1:]:
        assert all(trace.crossings[n].producer >= 0 for n in segment.reads)


def test_producers_and_last_readers_are_those_of_the_segments(tiny: Loader) -> None:
    trace = tiny().trace
    for number, found in trace.crossings.items():
        readers = [s.index for s in trace.segments if number in s.reads]
        writers = [s.index for s in trace.segments if number in dict(s.writes)]
        assert found.last_reader == max(readers)
        assert writers == ([] if found.producer < 0 else [found.producer])


def test_each_layer_hands_one_hidden_state_to_the_next(tiny: Loader) -> None:
    trace = tiny().trace
    for index in range(1, 5):
        (hidden,) = crossing(trace, index, "hidden_states")
        assert (hidden.producer, hidden.last_reader) == (index - 1, index)
        assert hidden.bytes == BATCH * SEQ * WIDTH * 2


# ---------------------------------------------------------------------- traced once
@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a decoder layer's real forward runs."""
    runs: list[int] = []
    original = LlamaDecoderLayer.forward

    def counted(self: LlamaDecoderLayer, *args: Any, **kwargs: Any) -> Any:
        runs.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    return runs


@pytest.mark.parametrize("layers", [1, 4, 40])
def test_equal_layers_run_once_however_many_there_are(tiny: Loader, forwards: list[int], layers: int) -> None:
    trace = tiny({**TINY, "num_hidden_layers": layers}).trace
    assert len(trace.segments) == 1 + layers
    assert len(forwards) == 1


def without_structure(trace: ModelTrace) -> ModelTrace:
    return replace(trace, segments=tuple(replace(s, structure=0) for s in trace.segments))


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float16"}, {"batch_size": 1, "samples": 1, "seq_len": 1200}], ids=str
)
def test_a_replayed_layer_equals_its_real_trace(
    tiny: Loader, forwards: list[int], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    replayed = tiny(**options).trace
    different = itertools.count()
    monkeypatch.setattr(tracing, "signature", lambda _values: next(different))
    real = tiny(**options).trace
    assert len(forwards) == 1 + TINY["num_hidden_layers"]
    assert without_structure(replayed) == without_structure(real)


def test_layers_that_see_a_window_and_layers_that_see_all_run_once_each(tiny: Loader) -> None:
    config = {
        "model_type": "gemma3_text",
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": 6,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": 100,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "sliding_window": 8,
    }
    trace = tiny(config).trace
    numbers = [s.structure for s in trace.segments[1:]]
    assert numbers[0] == numbers[2] == numbers[4] != numbers[1] == numbers[3]


def test_equal_layers_share_a_structure_and_the_last_has_its_own(tiny: Loader) -> None:
    assert [s.structure for s in tiny().trace.segments] == [0, 1, 1, 1, 4]


# ---------------------------------------------------------------------- borders inside a layer
def test_attention_and_mlp_may_be_subgraphs_of_their_own(tiny: Loader) -> None:
    whole = tiny().trace
    halves = tiny(sequential_targets=("LlamaAttention", "LlamaMLP")).trace
    targets = [s.target for s in halves.segments]
    assert targets[:3] == ["", "model.layers.0.self_attn", "model.layers.0.mlp"]
    assert len(targets) == 1 + 2 * 4
    weights = [sum(sum(onloads(s).values()) for s in trace.segments) for trace in (whole, halves)]
    assert weights[0] == weights[1]


def test_a_border_inside_a_layer_keeps_the_residual(tiny: Loader) -> None:
    trace = tiny(sequential_targets=("LlamaAttention", "LlamaMLP")).trace
    hidden = BATCH * SEQ * WIDTH * 2
    into_mlp = [trace.crossings[n].bytes for n in trace.segments[2].reads]
    assert into_mlp.count(hidden) == 2  # what the MLP reads, and the sum that is added afterwards


def reads(trace: ModelTrace, per_subgraph: int, of: str) -> list[int]:
    """How often each subgraph reads a crossing of this name."""
    return [sum(trace.crossings[n].name == of for n in subgraph.reads) for subgraph in cut(trace, per_subgraph)]


def test_a_mask_out_of_a_dictionary_crosses_once_for_every_layer_of_a_subgraph(tiny: Loader) -> None:
    """modeling_qwen3.py: causal_mask_mapping[...] is a node of the traced graph for each layer."""
    qwen = {**TINY, "model_type": "qwen3", "head_dim": HEAD_DIM}
    assert reads(tiny(qwen).trace, 1, "attention_mask")[1:] == [1, 1, 1, 1]
    assert reads(tiny(qwen).trace, 2, "attention_mask")[1:] == [2, 2]
    assert reads(tiny().trace, 2, "attention_mask")[1:] == [1, 1]


def test_with_targets_inside_a_layer_the_batch_is_the_same(tiny: Loader) -> None:
    """Nothing that the tracer itself asks of a tensor is a node, so the graph's inputs come first."""
    for trace in (tiny().trace, tiny(sequential_targets=("Linear",)).trace):
        inputs = [(c.name, c.bytes) for c in trace.crossings.values() if c.producer < 0]
        assert inputs == [("input_ids", BATCH * SEQ * 8), ("attention_mask", BATCH * SEQ * 8)]


def test_the_mask_is_made_where_the_wrapped_function_runs(tiny: Loader) -> None:
    """Measured: positions cross from the head, and the mask is made with the first v_proj, after q_proj and k_proj."""
    trace = tiny(sequential_targets=("Linear",)).trace
    mask = next(c for c in trace.crossings.values() if c.bytes == BATCH * SEQ * SEQ * 2)
    assert trace.segments[mask.producer].target == "model.layers.0.self_attn.v_proj"
    assert not any(c.bytes == BATCH * SEQ * SEQ for c in trace.crossings.values())  # of bool: inside of the function


def test_what_is_left_of_one_mixture_of_experts_is_done_before_the_next_ones_experts(tiny: Loader) -> None:
    """The next layer's experts wait for the shape of what they read: modeling_mixtral.py MixtralSparseMoeBlock."""
    mixtral = {**TINY, "model_type": "mixtral", "num_hidden_layers": 2, "num_local_experts": 3}
    targets = ("MixtralAttention", "ExpertMLPWithGate")
    trace = tiny({**mixtral, "num_experts_per_tok": 2, "head_dim": HEAD_DIM}, sequential_targets=targets).trace
    last = next(s for s in trace.segments if s.target == "model.layers.1.mlp.experts.2")
    experts = [trace.crossings[n].name for n in last.reads if ".experts." in trace.crossings[n].name]
    assert experts == ["model.layers.1.mlp.experts.0", "model.layers.1.mlp.experts.1"]
    assert [trace.crossings[n].name for n in last.reads].count("zeros_like") == 1


def test_torchs_modules_are_called_as_before_once_the_trace_is_done(tiny: Loader) -> None:
    before = torch.nn.Module.__call__
    tiny()
    assert torch.nn.Module.__call__ is before
