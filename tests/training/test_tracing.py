"""Traced activations of a training step: against closed forms, and against real tensors."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from planner.errors import JobError
from planner.job import Build, DType
from planner.models.build import build_on_cpu
from planner.models.recorder import storage_key
from planner.models.source import ModelSource, load_source
from planner.training.kernels import Autocast
from planner.training.trace import Piece, TraceRequest, TrainingTrace, step_peak
from planner.training.tracing import trace_training

SEQ, BATCH, HIDDEN, HEADS = 1024, 2, 2048, 16
GPT = ModelSource(
    name="gpt",
    config={
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": HIDDEN,
        "n_head": HEADS,
        "n_layer": 2,
        "vocab_size": 50257,
        "n_positions": 2048,
        "activation_function": "gelu",
        **dict.fromkeys(("resid_pdrop", "attn_pdrop", "embd_pdrop"), 0.1),
    },
)
SMALL = ModelSource(
    name="small",
    config={
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_hidden_layers": 3,
        "vocab_size": 1000,
        "tie_word_embeddings": False,
    },
)


def one_layer(preset: str) -> ModelSource:
    """A preset without the layers that a test of one layer would build and run too."""
    source = load_source(preset)
    return replace(source, config=source.config | {"num_hidden_layers": 1})


LLAMA_LAYER, QWEN_MOE_LAYER = one_layer("llama-3-8b"), one_layer("qwen3-30b-a3b")


def gpt(**asked: Any) -> TrainingTrace:
    return trace_training(
        GPT, TraceRequest(seq_len=SEQ, batch_size=BATCH, **asked), ["transformer.h.0", "transformer.h.1"]
    )


def llama(source: ModelSource | None = None, layers: int = 32, **asked: Any) -> TrainingTrace:
    asked = {"seq_len": 2048, "batch_size": 1} | asked
    names = [f"model.layers.{n}" for n in range(layers)]
    return trace_training(source or load_source("llama-3-8b"), TraceRequest(**asked), names)


def per_token(piece: Piece) -> float:
    """In units of sequence x batch x hidden, as the paper counts."""
    return piece.saved / (SEQ * BATCH * HIDDEN)


def test_a_gpt_layer_keeps_what_korthikanti_and_others_count() -> None:
    # arXiv 2205.05198, equation 1: s b h (34 + 5 a s / h) bytes, 16-bit, dropout, "omitting" the layer norms' mean
    # and reciprocal deviation: 2 norms x 2 numbers x 4 bytes a token.
    expected = 34 + 5 * HEADS * SEQ / HIDDEN + 2 * 2 * 4 / HIDDEN
    assert per_token(gpt(attention="eager").pieces[0]) == pytest.approx(expected, rel=1e-9)


def test_the_tanh_gelu_of_gpt2_keeps_three_more_tensors_of_the_mlp_than_the_paper_counts() -> None:
    # transformers/activations.py NewGELUActivation is written operator by operator: 32 instead of 8 bytes for each of
    # the 4 h elements of a token.
    written_out = replace(GPT, config={**GPT.config, "activation_function": "gelu_new"})
    request = TraceRequest(seq_len=SEQ, batch_size=BATCH, attention="eager")
    piece = trace_training(written_out, request, ["transformer.h.0"]).pieces[0]
    assert per_token(piece) - per_token(gpt(attention="eager").pieces[0]) == pytest.approx(24)


def test_selective_checkpointing_leaves_out_the_scores() -> None:
    # The paper's 34 s b h with selective recomputation.
    piece = gpt(attention="eager", checkpointing="selective").pieces[0]
    assert per_token(piece) == pytest.approx(34, rel=0.001)


def test_flash_attention_keeps_no_scores_but_a_logsumexp() -> None:
    eager, flash = gpt(attention="eager").pieces[0], gpt().pieces[0]
    scores = 5 * HEADS * SEQ * SEQ * BATCH
    assert eager.saved - flash.saved == scores - 4 * HEADS * SEQ * BATCH


def test_attention_of_an_fp32_model_keeps_four_bytes_an_element() -> None:
    # all of a layer is twice as wide, but masks of dropout (1 byte), the norms' and attention's fp32 numbers
    half, wide = gpt().pieces[0], gpt(dtype="float32").pieces[0]
    same = SEQ * BATCH * (2 * HIDDEN + 2 * 2 * 4 + 4 * HEADS)
    assert wide.saved - same == 2 * (half.saved - same)


def test_full_checkpointing_keeps_the_input_of_each_layer_alone() -> None:
    trace = gpt(attention="eager", checkpointing="full")
    assert trace.pieces[0].saved == 2 * SEQ * BATCH * HIDDEN
    none = gpt(attention="eager")
    assert trace.pieces[0].backward_peak >= none.pieces[0].saved + trace.pieces[0].saved


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_bytes_kept_without_data_are_the_bytes_kept_with_data(dtype: DType) -> None:
    seq, batch = 48, 2
    trace = llama(SMALL, 3, seq_len=seq, batch_size=batch, attention="eager", dtype=dtype)
    model = build_on_cpu(SMALL, Build(dtype=dtype)).train()
    model.config._attn_implementation = "eager"
    own = {storage_key(t) for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if storage_key(tensor) not in own and tensor.is_floating_point():
            kept[storage_key(tensor)] = tensor.detach()
        return tensor.detach()

    ids = torch.ones(batch, seq, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=ids, attention_mask=ids, labels=ids, use_cache=False).loss
    real = sum(t.untyped_storage().nbytes() for t in kept.values())
    loss.backward()
    assert trace.saved == pytest.approx(real, rel=0.002)  # ids and labels, which are not activations


def test_the_loss_of_llama_keeps_fp32_log_probabilities_and_peaks_with_logits_beside_them() -> None:
    # transformers/loss/loss_utils.py ForCausalLMLoss: logits.float(), then log_softmax.
    tokens, vocabulary = 2048, 128_256
    rest = llama().rest
    assert rest.saved == pytest.approx(4 * tokens * vocabulary, rel=0.07)
    assert rest.saved > 4 * tokens * vocabulary
    assert rest.forward_peak >= 10 * tokens * vocabulary


def test_autocast_copies_every_linear_of_a_layer_and_a_bf16_model_none() -> None:
    linears = 218_112_000 - 2 * 4096
    assert llama(dtype="float32", autocast="bfloat16").pieces[0].casts == 2 * linears
    assert llama(autocast="bfloat16").pieces[0].casts == 0


def test_autocast_copies_stay_to_the_end_of_the_forward_even_when_layers_are_computed_again() -> None:
    piece = llama(dtype="float32", autocast="bfloat16", checkpointing="full").pieces[0]
    assert (piece.casts, piece.cached_casts) == (0, 2 * (218_112_000 - 2 * 4096))


def test_gradients_are_made_for_every_weight_once() -> None:
    trace = llama()
    made = sum(trace.pieces[n].weight_gradients for n in trace.layers)
    assert made + trace.rest.weight_gradients + trace.embedding.weight_gradients == 2 * 8_030_261_248


def test_a_tied_embedding_gets_its_gradient_once() -> None:
    trace = llama(load_source("qwen3-0.6b"), 28, seq_len=128)
    made = sum(trace.pieces[n].weight_gradients for n in trace.layers)
    assert made + trace.rest.weight_gradients + trace.embedding.weight_gradients == 2 * 596_049_920


def test_a_frozen_linear_keeps_no_input_and_an_adapter_its_own() -> None:
    seq = 512
    one = frozenset({"model.layers.0.mlp.down_proj"})
    asked: dict[str, Any] = {"seq_len": seq, "trainable": False, "autocast": "bfloat16"}
    bare = llama(LLAMA_LAYER, 1, **asked).pieces[0]
    adapted = llama(LLAMA_LAYER, 1, **asked, adapters=one, rank=8).pieces[0]
    assert bare.weight_gradients == 0
    assert adapted.weight_gradients == 4 * 8 * (14336 + 4096)
    copy_of_input, rank_outputs, casts = 2 * seq * 14336, 2 * seq * 8, 2 * 8 * (14336 + 4096)
    assert adapted.saved - bare.saved == copy_of_input + rank_outputs + casts


def test_dropout_of_an_adapter_keeps_a_mask_of_one_byte_an_element() -> None:
    one = frozenset({"model.layers.0.mlp.down_proj"})
    asked: dict[str, Any] = {"seq_len": 512, "trainable": False, "autocast": "bfloat16", "adapters": one}
    with_masks, without = llama(LLAMA_LAYER, 1, **asked, dropout=0.1), llama(LLAMA_LAYER, 1, **asked)
    assert with_masks.pieces[0].saved - without.pieces[0].saved == 512 * 14336


@pytest.mark.parametrize("rows_wanted", [True, False])
@pytest.mark.parametrize("weight_wanted", [True, False])
def test_experts_keep_what_torchs_own_grouped_matrix_product_keeps(rows_wanted: bool, weight_wanted: bool) -> None:
    kept: dict[str, list[torch.Size]] = {"cpu": [], "meta": []}
    for device, shapes in kept.items():
        with torch.device(device):
            rows = torch.ones(32, 64, dtype=torch.bfloat16, requires_grad=rows_wanted)
            weight = torch.ones(4, 64, 16, dtype=torch.bfloat16, requires_grad=weight_wanted)
            offsets = torch.full((4,), 8, dtype=torch.int32).cumsum(0, dtype=torch.int32)
        pack = lambda t, shapes=shapes: shapes.append(t.shape) or t  # noqa: E731  # both in one
        with Autocast(None, True) if device == "meta" else nullcontext(), saved_tensors_hooks(pack, lambda t: t):
            torch.nn.functional.grouped_mm(rows, weight, offs=offsets)
    assert sorted(kept["meta"]) == sorted(shape for shape in kept["cpu"] if len(shape) > 1)


@pytest.mark.parametrize("model", ["deepseek-r1", "gpt-oss-20b", "gemma-3-27b", "llama-4-scout"])
def test_models_of_every_kind_go_forward_and_back(model: str) -> None:
    from planner.serving.model import load_served

    served, _ = load_served(model)
    layers = [unit.name for unit in served.graph.units if unit.kind == "decoder"]
    trace = trace_training(load_source(model), TraceRequest(seq_len=256, batch_size=1), layers)
    assert len(trace.layers) == served.layers
    for piece in (*trace.pieces, trace.rest):
        assert 0 < piece.saved <= piece.backward_peak <= piece.backward_peak_growing


def test_experts_that_transformers_spreads_out_for_bitsandbytes_are_traced_as_4_bit_linears() -> None:
    layers = [f"language_model.model.layers.{n}" for n in range(48)]
    names = [
        f"{layer}.feed_forward.experts.*.{name}" for layer in layers for name in ("gate_proj", "up_proj", "down_proj")
    ]
    request = TraceRequest(seq_len=256, batch_size=1, trainable=False, autocast="bfloat16", quantized=frozenset(names))
    trace = trace_training(load_source("llama-4-scout"), request, layers)
    assert len(trace.layers) == 48
    assert trace.pieces[0].saved > 0


@pytest.mark.parametrize("method", ["quantized", "adapters"])
def test_a_conv1d_is_quantized_and_adapted_as_a_linear(method: str) -> None:
    name = frozenset({"transformer.h.0.mlp.c_fc"})
    trace = gpt(trainable=False, autocast="bfloat16", **{method: name})
    assert trace.pieces[0].weight_gradients == (4 * 16 * 5 * HIDDEN if method == "adapters" else 0)


def test_an_adapted_expert_tensor_is_made_anew_and_kept() -> None:
    # peft ParamWrapper: W + BA of (128, 1536, 2048) and (128, 2048, 768) in the weights' 16 bit
    experts = "model.layers.0.mlp.experts"
    asked: dict[str, Any] = {"seq_len": 256, "trainable": False, "autocast": "bfloat16"}
    bare = llama(QWEN_MOE_LAYER, 1, **asked).pieces[0]
    both = frozenset({f"{experts}.gate_up_proj", f"{experts}.down_proj"})
    piece = llama(QWEN_MOE_LAYER, 1, **asked, adapters=both).pieces[0]
    whole, factors = 2 * 128 * (1536 + 768) * 2048, 128 * (32 * (1536 + 2048) + 16 * (2048 + 768))
    rows = 2 * 256 * 8 * (2048 + 768)
    assert piece.weight_gradients == 4 * factors
    assert piece.saved - bare.saved == pytest.approx(whole + 2 * factors + rows, rel=0.02)


def test_an_adapted_router_keeps_its_input() -> None:
    router = frozenset({"model.layers.0.mlp.gate.weight"})
    asked: dict[str, Any] = {"seq_len": 256, "trainable": False, "autocast": "bfloat16"}
    bare, piece = (
        llama(QWEN_MOE_LAYER, 1, **asked).pieces[0],
        llama(QWEN_MOE_LAYER, 1, **asked, adapters=router).pieces[0],
    )
    assert piece.weight_gradients == 4 * 16 * (128 + 2048)
    assert piece.saved > bare.saved


def test_batches_and_sequences_beyond_a_calibrations_limits_are_traced() -> None:
    many, one = llama(SMALL, 3, seq_len=16, batch_size=513), llama(SMALL, 3, seq_len=16)
    assert many.pieces[0].saved == 513 * one.pieces[0].saved
    assert llama(SMALL, 3, seq_len=2**20 + 1).saved > 2**20 * 256
    with pytest.raises(JobError, match="tokens"):
        llama(SMALL, 3, seq_len=2**24, batch_size=2**16)


def test_the_highest_point_is_never_below_what_is_kept() -> None:
    for checkpointing in ("none", "selective", "full"):
        trace = llama(seq_len=256, checkpointing=checkpointing)
        for growing in (True, False):
            assert step_peak(trace, growing=growing).bytes + step_peak(trace, growing=growing).gradients >= trace.saved
