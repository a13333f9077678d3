"""The activations of a prefill: closed forms by hand, what grows with what, and what is said beside them."""

import pytest
from transformers.models.llama.modeling_llama import LlamaMLP

from planner.errors import JobError
from planner.job import Build
from planner.models.built import built_model
from planner.models.source import ModelSource, load_source
from planner.serving.prefill import PrefillTracer
from planner.units import in_blocks
from tests.serving.test_cache_layers import source_of

BF16, FP32, INT64 = 2, 4, 8


def tracer_of(source: ModelSource) -> PrefillTracer:
    return PrefillTracer(built_model(source, Build()))


@pytest.fixture(scope="module")
def llama() -> PrefillTracer:
    return tracer_of(load_source("llama-3-8b"))


def llama_mlp(tokens: int, shards: int = 1) -> int:
    """Llama-3-8B at its peak, in an MLP: token ids and positions (int64), cos and sin of a head (128), the embedded
    tokens, which transformers' forward keeps, the layer's input, the residual and the normed hidden states (4096),
    and gate, up and their product (14336).
    """
    hidden = 4 * in_blocks(tokens * 4096 * BF16)
    products = 3 * in_blocks(tokens * 14336 // shards * BF16)
    tables = 2 * in_blocks(tokens * 128 * BF16)
    return hidden + products + tables + 2 * in_blocks(tokens * INT64)


@pytest.mark.parametrize("tokens", [512, 2048, 8192])
def test_flash_prefill_of_llama_3_8b_in_closed_form(llama: PrefillTracer, tokens: int) -> None:
    assert llama(tokens, tokens) == llama_mlp(tokens)
    assert not llama.notes


def test_with_flash_attention_a_longer_context_costs_nothing(llama: PrefillTracer) -> None:
    assert llama(2048, 131072) == llama_mlp(2048)


def test_each_gpu_holds_its_part_of_the_products_and_whole_hidden_states(llama: PrefillTracer) -> None:
    assert llama(2048, 2048, shards=2) == llama_mlp(2048, 2)


def test_sequences_of_a_batch_are_as_tokens(llama: PrefillTracer) -> None:
    """Positions and their tables are made once for the batch."""
    once = 2 * in_blocks(512 * 128 * BF16) + in_blocks(512 * INT64)
    assert llama(512, 512, batch=4) == llama_mlp(2048) - 3 * once


def test_eager_attention_grows_with_tokens_times_context(llama: PrefillTracer) -> None:
    """Scores of 32 heads: in bf16, their softmax in fp32 from an fp32 copy, at most; and the mask once."""
    small, wide, tall = (llama(*sizes, attention="eager") for sizes in ((512, 4096), (512, 8192), (1024, 8192)))
    cell = 32 * (BF16 + 2 * FP32)
    assert 1.0 <= (wide - small) / (512 * 4096 * cell) < 1.2
    assert 1.0 <= (tall - wide) / (512 * 8192 * cell) < 1.2
    assert small > llama(512, 4096)


def test_the_logits_are_of_the_last_token_in_the_models_type_and_in_fp32(llama: PrefillTracer) -> None:
    """With one new token in each of many sequences the head is the peak."""
    rows = 64
    logits = in_blocks(rows * 128256 * BF16) + in_blocks(rows * 128256 * FP32)
    assert logits < llama(1, 1, batch=rows) < 1.1 * logits


def test_routed_experts_are_one_kernel() -> None:
    """Mixtral: two experts of each token; gate and up in one buffer that down reuses, the activation, the output."""
    tokens, rows = 2048, 2 * 2048
    kernel = in_blocks(rows * 2 * 14336 * BF16) + in_blocks(rows * 14336 * BF16) + in_blocks(tokens * 4096 * BF16)
    hidden = 4 * in_blocks(tokens * 4096 * BF16)
    peak = tracer_of(load_source("mixtral-8x7b"))(tokens, tokens)
    assert 0 <= peak - kernel - hidden < 4 * 2**20  # positions, tables, router


def test_llama_4_routes_as_servers_do_and_does_not_run_every_expert() -> None:
    tracer = tracer_of(load_source("llama-4-scout"))
    every_expert = 16 * 2048 * 5120 * BF16
    assert tracer(2048, 2048) < every_expert


def test_mla_expands_at_most_the_servers_workspace() -> None:
    tracer = tracer_of(load_source("deepseek-r1"))
    assert tracer(512, 2048) > tracer(512, 512)
    assert tracer(512, 512 + 65536) == tracer(512, 163840)
    assert tracer(1, 163840) == tracer(1, 1)  # decoding reads the latents


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "gpt-oss-20b", "gemma-3-27b", "deepseek-r1", "llama-4-scout"])
def test_two_gpus_hold_less_each_than_one_and_more_than_half(name: str) -> None:
    tracer = tracer_of(load_source(name))
    one, two = tracer(2048, 2048), tracer(2048, 2048, shards=2)
    assert one / 2 < two < one
    assert not tracer.notes


def test_attention_code_of_a_models_own_is_flash_through_torchs_function() -> None:
    """Falcon: attention scores of 71 heads would be 71 x 2048 x 2048 in each type."""
    tracer = tracer_of(load_source("tests/measured/configs/falcon.json"))
    assert tracer(2048, 2048) < 71 * 2048**2 * BF16
    assert not tracer.notes


@pytest.mark.parametrize(
    ("model_type", "width", "inner"), [("gptj", 4096, 4 * 4096), ("bloom", 4096, 4 * 4096), ("mpt", 4096, 4 * 4096)]
)
def test_attention_that_calls_no_kernel_is_counted_without_its_scores(model_type: str, width: int, inner: int) -> None:
    """BLOOM-7B1, MPT-7B and GPT-J-6B: servers run them with FlashAttention, ALiBi or not."""
    sizes = {"gptj": {}, "bloom": {"hidden_size": 4096, "n_layer": 30, "n_head": 32}, "mpt": {"d_model": 4096}}
    config = {"model_type": model_type, **sizes[model_type]}
    if model_type == "mpt":
        config |= {"n_heads": 32, "n_layers": 32, "max_seq_len": 2048}
    tracer = tracer_of(ModelSource(name=model_type, config=config))
    found, heads = tracer(2048, 2048), 16 if model_type == "gptj" else 32
    assert 2048 * (width + inner) * BF16 < found < 2048 * (8 * width + 5 * inner) * BF16
    assert tracer(2048, 2048, attention="eager") - found > heads * 2048**2 * BF16
    assert any("no flash attention" in note for note in tracer.notes)


@pytest.mark.parametrize("name", ["mamba2", "qwen3_next", "jamba", "falcon_h1"])
def test_a_scan_is_one_kernel_and_what_it_leaves_out_is_said(name: str) -> None:
    """transformers' own PyTorch scan of mamba2-7b holds 35 GB for 2048 tokens."""
    tracer = tracer_of(source_of(name))
    assert 0 < tracer(2048, 2048) < 10**9
    assert any("scan" in note for note in tracer.notes)


def test_a_config_that_cannot_be_divided_gives_the_whole_with_a_note() -> None:
    tracer = tracer_of(source_of("mamba2"))
    assert tracer(512, 512, shards=2) == tracer(512, 512)
    assert any("holds everything" in note for note in tracer.notes)


def test_a_forward_that_does_not_run_is_estimated_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    tracer = tracer_of(load_source("llama-3-8b"))
    traced = tracer(2048, 2048)
    monkeypatch.setattr(LlamaMLP, "forward", refuse)
    estimated = tracer_of(load_source("llama-3-8b"))
    assert 0.8 * traced < estimated(2048, 2048) < 1.25 * traced
    assert any("estimated" in note and "no such operator" in note for note in estimated.notes)


@pytest.mark.parametrize(("tokens", "context", "batch"), [(0, 1, 1), (2, 1, 1), (1, 1, 0)])
def test_sizes_that_make_no_sense_are_errors(llama: PrefillTracer, tokens: int, context: int, batch: int) -> None:
    with pytest.raises(JobError, match="no such prefill"):
        llama(tokens, context, batch=batch)


def test_heads_that_do_not_divide_are_an_error(llama: PrefillTracer) -> None:
    with pytest.raises(JobError, match="32 attention heads cannot be split over 3 GPUs"):
        llama(512, 512, shards=3)
