"""One record out of a model, a format and what is asked: sums, laws, and what logs of real servers say."""

from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import JobError
from planner.formats.registry import find_format
from planner.formats.served_model import CacheLayer, ServedModel
from planner.hardware import find_gpu
from planner.serving.activations import Activations
from planner.serving.engines.vllm import max_num_seqs
from planner.serving.model import load_served
from planner.serving.schema import ServeOptions, Serving
from planner.serving.serve import serve_parameters, size
from planner.units import GIB, MIB
from tests.serving.served import HEAD, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCABULARY, activations, model, sixteen

PER_TOKEN = 2 * LAYERS * KV_HEADS * HEAD * 2


def sized(served: ServedModel | None = None, family: str = "plain", **options: Any) -> Serving:
    return size(served or model(), activations, sixteen(family), ServeOptions(**options))


def test_the_parts_of_every_gpu_sum_to_its_total_and_those_of_all_to_the_whole() -> None:
    for options in ({}, {"gpu": "24GiB"}, {"gpus": 2}, {"gpus": 3, "split": "layer"}, {"overhead": "20%"}):
        found = sized(**options)
        for gpu in found.gpus:
            parts = (gpu.weights_bytes, gpu.kv_cache_bytes, gpu.activations_bytes, gpu.overhead_bytes)
            assert sum(part or 0 for part in parts) == gpu.total_bytes
        whole = (found.weights.bytes, found.kv_cache.bytes, found.activations.bytes, found.overhead.bytes)
        assert sum(part or 0 for part in whole) == sum(gpu.total_bytes for gpu in found.gpus)
        assert found.per_gpu == max(found.gpus, key=lambda gpu: gpu.total_bytes)


def test_the_cache_is_what_the_layers_keep_and_the_rule_stands_beside_it() -> None:
    found = sized(context=1024, batch=3)
    assert found.kv_cache.bytes_per_token == PER_TOKEN
    assert found.kv_cache.bytes == 3 * 1024 * PER_TOKEN
    assert found.kv_cache.rule_bytes == 2 * 3 * 1024 * HIDDEN * LAYERS * 2  # every head has keys of its own
    assert found.activations.rule_bytes == 3 * 1024 * HIDDEN * LAYERS * 2


def test_without_a_gpu_nothing_fits_or_does_not() -> None:
    found = sized()
    assert (found.fits, found.max_context, found.max_batch, found.max_users, found.speed) == (None,) * 5


def test_the_default_context_is_4096_or_what_the_config_allows() -> None:
    assert sized().context == 4096
    assert sized(model(max_positions=2048)).context == 2048
    assert sized(model(max_positions=None)).context == 4096


def test_a_context_beyond_the_config_is_a_note() -> None:
    assert any("8,192 positions" in note for note in sized(context=10_000).notes)
    assert not any("positions" in note for note in sized(context=100).notes)


def test_the_largest_that_fits_fits_and_one_more_does_not() -> None:
    asked = {"gpu": "2GiB", "beyond_positions": True}
    found = sized(**asked, batch=4)
    assert found.max_context and found.max_batch
    assert sized(**asked, batch=4, context=found.max_context).fits
    assert not sized(**asked, batch=4, context=found.max_context + 1).fits
    assert sized(**asked, batch=found.max_batch).fits
    assert not sized(**asked, batch=found.max_batch + 1).fits


def test_a_context_beyond_the_config_that_fits_is_not_above_the_longest() -> None:
    """Asking for it is asking beyond the positions."""
    found = sized(gpu="24GiB", context=20_000)
    assert found.fits
    assert found.max_context == sized(gpu="24GiB", beyond_positions=True).max_context
    assert found.max_context > 20_000
    assert sized(gpu="24GiB", context=8192).max_context == 8192


@settings(max_examples=25, deadline=None)
@given(context=st.integers(1, 40_000), batch=st.integers(1, 64), chunk=st.sampled_from([None, 0, 512]))
def test_fits_means_that_neither_context_nor_batch_is_above_the_largest(
    context: int, batch: int, chunk: int | None
) -> None:
    found = sized(gpu="2GiB", context=context, batch=batch, prefill_chunk=chunk)
    assert found.max_context is not None and found.max_batch is not None and found.max_users is not None
    assert found.fits == (context <= found.max_context) == (batch <= found.max_batch)
    assert found.max_users >= found.max_batch
    assert found.spare_bytes is not None
    assert found.fits == (found.spare_bytes >= 0)


@given(context=st.integers(1, 8191), batch=st.integers(1, 100))
def test_more_of_anything_never_takes_less(context: int, batch: int) -> None:
    small = sized(context=context, batch=batch).per_gpu.total_bytes
    assert small <= sized(context=context + 1, batch=batch).per_gpu.total_bytes
    assert small <= sized(context=context, batch=batch + 1).per_gpu.total_bytes


def test_llama_cpp_serves_no_more_than_256_sequences() -> None:
    """src/llama-cparams.h LLAMA_MAX_SEQ, whatever the memory: here no layer's cache is on the GPU."""
    found = sized(family="gguf", gpu="24GiB", gpu_layers=0)
    assert (found.max_batch, found.max_users) == (256, 256)
    assert (sized(family="gguf", engine="vllm", gpu="80GiB", context=64).max_users or 0) > 256
    with pytest.raises(JobError, match=r"--batch 257: llama\.cpp serves at most 256 sequences"):
        sized(family="gguf", batch=257)


def test_vllm_starts_with_256_sequences_and_1024_on_large_cards() -> None:
    """vllm/engine/arg_utils.py get_batch_defaults."""
    assert [max_num_seqs(find_gpu(name)) for name in ("rtx4090", "A100", "h100")] == [256, 256, 1024]
    assert max_num_seqs(None) == 256


def test_whole_prompts_of_all_sequences_need_more_than_one_at_a_time() -> None:
    found = sized(gpu="2GiB", prefill_chunk=0, context=8192)
    assert found.activations.tokens == 8192
    assert (found.max_users or 0) > (found.max_batch or 0) > 0


def test_vllm_sets_a_whole_chunk_aside_and_llama_cpp_its_logits() -> None:
    assert sized(context=100).activations.bytes == 2048 * 1000
    assert sized(context=100, gpu="80GiB").activations.bytes == 8192 * 1000
    assert sized(context=100, gpu="A100").activations.bytes == 2048 * 1000
    assert sized(family="gguf").activations.bytes == 512 * (VOCABULARY + HIDDEN) * 4


@pytest.mark.parametrize(("batch", "together"), [(1, 1), (3, 3), (8, 8), (50, 8)])
def test_eager_scores_are_those_of_sequences_and_not_of_a_whole_chunk(batch: int, together: int) -> None:
    """A chunk of 8,192 tokens is eight sequences of 1,024."""
    found = sized(attention="eager", gpu="80GiB", context=1024, batch=batch)
    assert (found.activations.tokens, found.activations.sequences) == (1024, together)
    assert found.activations.bytes == together * (1024 * 1000 + 1024**2 * HEADS * 2)


def test_a_chunk_of_a_long_prompt_has_scores_for_all_that_came_before() -> None:
    found = sized(model(max_positions=None), attention="eager", gpu="80GiB", context=16384)
    assert found.activations.bytes == 8192 * 1000 + 8192 * 16384 * HEADS * 2


def test_with_eager_attention_vllm_still_sets_a_whole_chunk_aside() -> None:
    assert sized(attention="eager", gpu="80GiB", context=16).activations.bytes == 8192 * 1000


@given(context=st.integers(1, 8191), chunk=st.sampled_from([512, 2048, 8192]))
def test_eager_attention_never_takes_less_at_a_longer_context(context: int, chunk: int) -> None:
    asked = {"attention": "eager", "prefill_chunk": chunk, "batch": 7}
    short, long = (sized(**asked, context=tokens) for tokens in (context, context + 1))
    # Where equal parts do not divide a chunk, more parts can have a few tokens more in all: exactly those.
    steps = [one.activations.tokens * one.activations.sequences for one in (short, long)]
    extra = max(0, steps[0] - steps[1]) * (1000 + context * HEADS * 2)
    assert short.per_gpu.total_bytes <= long.per_gpu.total_bytes + extra


def test_eager_attention_holds_its_scores() -> None:
    found = sized(attention="eager", prefill_chunk=0, context=2048)
    assert found.activations.bytes == 2048 * 1000 + 2048 * 2048 * HEADS * 2


def test_tensor_parallelism_halves_the_cache_until_the_key_heads_run_out() -> None:
    one, two, four = (sized(gpus=gpus, context=1024).per_gpu.kv_cache_bytes for gpus in (1, 2, 4))
    assert one == 2 * (two or 0)
    assert two == four


def test_what_is_on_the_cpu_is_not_on_the_gpu() -> None:
    whole, some = sized(family="gguf"), sized(family="gguf", gpu_layers=2)
    assert whole.weights.bytes + whole.weights.cpu_bytes == some.weights.bytes + some.weights.cpu_bytes
    assert (whole.kv_cache.bytes or 0) == (some.kv_cache.bytes or 0) + (some.kv_cache.cpu_bytes or 0)
    assert (some.kv_cache.cpu_bytes or 0) == 3 * (some.kv_cache.bytes or 0)


def test_decoding_reads_weights_once_and_every_sequences_cache() -> None:
    found = sized(gpu="24GiB", bandwidth=10**12, context=1024, batch=4)
    assert found.speed
    weights = sum(2 * w.elements for w in model().weights if w.unit != "embedding") + 4 * 2 * HIDDEN
    assert found.speed.bytes_per_step == weights + 4 * 1024 * PER_TOKEN


def test_layers_on_the_cpu_slow_decoding_down() -> None:
    asked = {"gpu": "rtx4090", "context": 1024}
    fast, slow = sized(family="gguf", **asked).speed, sized(family="gguf", gpu_layers=3, **asked).speed
    assert fast and slow
    assert slow.tokens_per_second < fast.tokens_per_second


@pytest.mark.parametrize("engine", ["llama.cpp", "exllama"])
def test_an_engine_that_cannot_read_the_format_is_refused(engine: str) -> None:
    with pytest.raises(JobError, match="does not read"):
        sized(engine=engine)


# Known by the number of parameters alone


def test_a_trillion_parameters_at_2_3125_bits_are_269_gib() -> None:
    found = serve_parameters(10**12, "IQ2_XS", ServeOptions(overhead="20%"))
    assert found.weights.bytes == 289_062_500_000
    assert found.per_gpu.total_bytes == 346_875_000_000  # 323.05 GiB
    assert found.kv_cache.bytes is None
    assert found.activations.bytes is None
    assert any("give a MODEL" in note for note in found.notes)


def test_parameters_and_a_gpu_say_what_fits_without_cache() -> None:
    assert serve_parameters(70 * 10**9, "bf16", ServeOptions(gpu="80GiB")).fits is False
    assert serve_parameters(70 * 10**9, "bf16", ServeOptions(gpu="80GiB", gpus=2)).fits is None  # the cache is unknown


def test_parameters_alone_have_no_layers_to_leave_on_the_cpu() -> None:
    with pytest.raises(JobError, match="-ngl"):
        serve_parameters(10**9, "Q8_0", ServeOptions(gpu_layers=3))


# Real models, and what logs of their servers say


@pytest.fixture(scope="module")
def llama() -> tuple[ServedModel, Activations]:
    return load_served("llama-3-8b")


def real(loaded: tuple[ServedModel, Activations], weights: str, **options: Any) -> Serving:
    return size(*loaded, find_format(weights), ServeOptions(**options))


def test_llama_cpp_logs_the_same_buffers(llama: tuple[ServedModel, Activations]) -> None:
    # llama.cpp with Llama-3-8B Q4_K_M, 33/33 layers offloaded: `CPU buffer size = 281.81 MiB`,
    # `CUDA0 buffer size = 4403.49 MiB`, `CUDA0 compute buffer size = 258.50 MiB`; KV of 512 tokens 64.00 MiB.
    found = real(llama, "Q4_K_M", context=512)
    assert found.weights.bytes / MIB == pytest.approx(4403.49, abs=0.005)
    assert found.weights.cpu_bytes / MIB == pytest.approx(281.81, abs=0.005)
    assert (found.kv_cache.bytes or 0) == 64 * MIB
    assert (found.activations.bytes or 0) / MIB == 258.5


def test_vllm_logs_the_same_cache(llama: tuple[ServedModel, Activations]) -> None:
    # vLLM with Llama-3.1-8B on an 80 GB card: `model weights take 14.99GiB` (32 MiB of it the rope table of 131,072
    # positions), `reserved for KV Cache is 54.68GiB`, `GPU KV cache size: 447,776 tokens`.
    found = real(llama, "bf16")
    assert found.weights.bytes / GIB == pytest.approx(14.99 - 32 / 1024, abs=0.005)
    assert 54.68 * GIB / (found.kv_cache.bytes_per_token or 0) == pytest.approx(447_776, rel=1e-3)


def test_sliding_windows_have_room_for_the_prompt_that_is_read() -> None:
    # Gemma-3-27B: 52 layers see 1,024 tokens, 10 see all; 16 key-value heads of 128, 8 KiB for a token and layer.
    loaded = load_served("gemma-3-27b")
    vllm = real(loaded, "W4A16", gpu="80GiB", context=131_072)  # chunks of 8,192: ceil((1023 + 8192) / 16) + 1 blocks
    assert vllm.kv_cache.bytes == (52 * 577 * 16 + 10 * 131_072) * 8192
    llama_cpp = real(loaded, "Q4_K_M", gpu="24GiB", context=32_768)  # 1,024 + 512 cells
    assert llama_cpp.kv_cache.bytes == (52 * 1536 + 10 * 32_768) * 8192
    for weights in ("W4A16", "Q4_K_M"):
        longest = real(loaded, weights, gpu="24GiB").max_context or 0
        assert 4096 < longest < 131_072
        assert real(loaded, weights, gpu="24GiB", context=longest).fits
        assert not real(loaded, weights, gpu="24GiB", context=longest + 1).fits


def test_a_whole_prompt_of_every_sequence_is_in_the_cache_at_the_same_time() -> None:
    """Without chunks all sequences are prefilled together, so no window is freed before the end."""
    window = (CacheLayer(layer=0, kind="sliding", heads=KV_HEADS, key_dim=HEAD, value_dim=HEAD, window=128),)
    token = KV_HEADS * HEAD * 2 * 2
    whole = sized(model(cache=window), prefill_chunk=0, context=4096, batch=3)
    assert whole.kv_cache.bytes == 3 * (4096 + 16) * token
    chunked = sized(model(cache=window), prefill_chunk=512, context=4096, batch=3)
    decoding, reading = 128 + 16, ceil((127 + 512) / 16) * 16 + 16
    assert chunked.kv_cache.bytes == (2 * decoding + reading) * token


def test_deepseek_on_eight_gpus_weighs_what_vllm_logs() -> None:
    # vLLM, DeepSeek-V3 family in FP8 with TP 8: `Model loading took 79.7390 GiB` on each, `Available KV cache
    # memory: 41.60 GiB`, `GPU KV cache size: 635,648 tokens`.
    loaded = load_served("deepseek-r1")
    found = real(loaded, "FP8", gpu="h200", gpus=8)
    assert found.per_gpu.weights_bytes / GIB == pytest.approx(79.739, rel=0.01)
    assert found.kv_cache.bytes_per_token == 61 * 576 * 2
    assert 41.60 * GIB / found.kv_cache.bytes_per_token == pytest.approx(635_648, rel=1e-3)
    assert found.fits
    assert found.kv_cache.bytes == 8 * 61 * 576 * 2 * 4096  # the latent is whole on each GPU
    experts = real(loaded, "FP8", gpu="h200", gpus=8, split="expert")
    assert experts.weights.bytes == pytest.approx(found.weights.bytes, rel=1e-3)
    assert experts.fits


def test_llama_2_70b_at_2_55_bits_fits_24_gb_with_2048_tokens_and_not_at_4_bits() -> None:
    # ExLlamaV2's README: 70B at 2.55 bpw runs on a 24 GB card with 2048 tokens of context.
    loaded = load_served("llama-2-70b")
    assert real(loaded, "exl2:2.55", gpu="rtx4090", context=2048).fits
    assert real(loaded, "exl2:4.0", gpu="rtx4090", context=2048).fits is False
