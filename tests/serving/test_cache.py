"""KV cache arithmetic: closed forms, published figures, and laws."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import JobError
from planner.formats.served_model import CacheKind, CacheLayer
from planner.serving.cache import KV_DTYPES, CacheSize, cache_size, kv_dtype
from planner.serving.engines import ENGINES, EXLLAMA, LLAMA_CPP
from planner.serving.engines.facts import EngineFacts
from planner.units import GIB


def attention(
    count: int, heads: int, size: int = 128, window: int | None = None, kind: CacheKind | None = None
) -> list[CacheLayer]:
    kind = kind or ("full" if window is None else "sliding")
    return [
        CacheLayer(layer=n, kind=kind, heads=heads, key_dim=size, value_dim=size, window=window) for n in range(count)
    ]


def latent(count: int) -> list[CacheLayer]:
    return [CacheLayer(layer=n, kind="latent", heads=1, key_dim=576) for n in range(count)]


def test_deepseek_v3_keeps_the_latent_alone() -> None:
    """61 layers x (512 + 64) x 2 bytes x 8192 tokens (DeepSeek-V3 report: 70,272 bytes a token)."""
    size = cache_size(latent(61), 8192)
    assert size.bytes == 61 * 576 * 2 * 8192 == 575_668_224
    assert size.bytes_per_token == 70_272


def test_llama_2_70b_keeps_an_eighth_of_what_the_multi_head_formula_says() -> None:
    assert cache_size(attention(80, 8), 4096, sequences=8, dtype="float16").bytes == 10 * GIB
    assert cache_size(attention(80, 64), 4096, sequences=8, dtype="float16").bytes == 80 * GIB


def test_llama_3_8b_at_a_million_tokens() -> None:
    """128 KiB a token: 122.07 GiB."""
    size = cache_size(attention(32, 8), 1_000_000)
    assert size.bytes == 131_072_000_000
    assert round(size.bytes / GIB, 2) == 122.07


def test_blocks_are_rounded_up_for_each_sequence() -> None:
    layers, token = attention(2, 4, 64), 2 * 4 * (64 + 64) * 2
    assert cache_size(layers, 17, sequences=3).bytes == 3 * 32 * token
    assert cache_size(layers, 17, sequences=3, block=1).bytes == 3 * 17 * token
    assert cache_size(layers, 17, sequences=3).bytes_per_token == token


@pytest.mark.parametrize(
    ("context", "block", "tokens"),
    [
        (100, 16, 112),
        (1024, 16, 1024),
        (1040, 16, 1040),
        (100_000, 16, 1040),
        (100_000, 1, 1024),
        (100_000, 64, 1088),
    ],
)
def test_a_window_keeps_its_tokens_and_at_most_one_block_more(context: int, block: int, tokens: int) -> None:
    (group,) = cache_size(attention(1, 1, window=1024), context, block=block).groups
    assert group.tokens == tokens


def test_a_chunk_begins_where_a_block_begins() -> None:
    """Llama 4: chunks of 8192 tokens are whole blocks of 16."""
    (group,) = cache_size(attention(1, 8, window=8192, kind="chunked"), 10**7).groups
    assert group.tokens == 8192


def gemma() -> list[CacheLayer]:
    """gemma-3-27b: 16 key-value heads of 128; 52 layers see 1,024 tokens."""
    return [*attention(52, 16, window=1024), *attention(10, 16)]


def test_while_a_prompt_is_read_vllm_holds_the_window_and_the_chunk() -> None:
    """vLLM SlidingWindowSpec.max_memory_usage_bytes: ceil((1023 + 8192) / 16) + 1 blocks of 16 tokens."""
    size = cache_size(gemma(), 131_072, chunk=8192)
    assert [group.tokens for group in size.groups] == [577 * 16, 131_072]
    assert size.bytes == (52 * 577 * 16 + 10 * 131_072) * 16 * 256 * 2
    assert round(size.bytes / GIB, 2) == 13.66


def test_a_short_prompt_needs_no_more_than_itself_and_a_block() -> None:
    """max_model_len caps the tokens in vLLM, but not the block for windows that begin inside of one."""
    (group,) = cache_size(attention(1, 1, window=1024), 2000, chunk=8192).groups
    assert group.tokens == 2000 + 16


def test_sequences_that_decode_hold_their_windows_alone() -> None:
    """A chunk is shared: vLLM asks for its room once, for the sequence that starts."""
    one, two = (cache_size(gemma(), 32_768, sequences=n, chunk=2048).bytes for n in (1, 2))
    assert two - one == cache_size(gemma(), 32_768).bytes < one
    both = cache_size(gemma(), 32_768, sequences=2, chunk=32_768, prefilled=2)
    assert both.bytes == 2 * cache_size(gemma(), 32_768, chunk=32_768).bytes


def test_a_chunked_layer_holds_its_chunk_and_the_steps() -> None:
    """vLLM ChunkedLocalAttentionSpec.max_memory_usage_bytes: 8192 + 2048 tokens, no block more."""
    (group,) = cache_size(attention(1, 8, window=8192, kind="chunked"), 10**6, chunk=2048).groups
    assert group.tokens == 8192 + 2048


def test_llama_cpp_makes_room_for_the_window_and_a_step_in_256s() -> None:
    """llama-kv-cache-iswa.cpp: GGML_PAD(min(kv_size, n_swa + n_ubatch), 256) = 1,536 cells for 1,024 + 512."""
    size = cache_size(gemma(), 32_768, chunk=512, block=256, engine=LLAMA_CPP)
    assert [group.tokens for group in size.groups] == [1536, 32_768]
    assert round(size.bytes / GIB, 2) == 3.11
    twice = cache_size(gemma(), 32_768, sequences=2, chunk=512, block=256, engine=LLAMA_CPP)
    assert twice.bytes == 2 * size.bytes
    (odd,) = cache_size(attention(1, 1, window=128), 32_768, chunk=512, block=256, engine=LLAMA_CPP).groups
    assert odd.tokens == 768


def test_exllama_keeps_every_token_whatever_the_window() -> None:
    """exllamav2/cache.py: every layer has the shape (batch, max_seq_len, heads, size)."""
    size = cache_size(gemma(), 32_768, chunk=2048, block=256, engine=EXLLAMA)
    assert size.bytes == cache_size(attention(62, 16), 32_768).bytes
    assert size.bytes_per_token == 62 * 16 * 256 * 2


@given(
    context=st.integers(1, 20_000),
    chunk=st.integers(1, 10_000),
    engine=st.sampled_from([*ENGINES.values()]),
    kind=st.sampled_from(["sliding", "chunked"]),
    window=st.integers(1, 5000),
)
def test_the_room_for_a_prompt_grows_with_context_and_chunk(
    context: int, chunk: int, engine: EngineFacts, kind: CacheKind, window: int
) -> None:
    layers = attention(1, 1, window=window, kind=kind)
    kept = [
        cache_size(layers, tokens, sequences=3, chunk=step, engine=engine).bytes
        for tokens, step in ((context, chunk), (context + 1, chunk), (context + 1, chunk + 1))
    ]
    assert kept == sorted(kept)
    # llama.cpp keeps a ring of window and step, which no block of a window's worst place is part of
    if not engine.room_from_the_start:
        assert kept[0] >= cache_size(layers, context, sequences=3, engine=engine).bytes


@given(window=st.integers(1, 200), block=st.sampled_from([1, 4, 16, 64]))
def test_a_windows_blocks_are_the_most_that_any_place_of_it_touches(window: int, block: int) -> None:
    """By counting: the window's last token moves through two blocks and more."""
    last = range(10 * max(window, block), 10 * max(window, block) + 2 * block)
    touched = max(end // block - (end - window + 1) // block + 1 for end in last)
    (group,) = cache_size(attention(1, 1, window=window), 10**6, block=block).groups
    assert group.tokens == touched * block


def test_a_full_window_costs_nothing_more() -> None:
    layers = [*attention(3, 2, window=512), *attention(1, 2)]
    token = 2 * 256 * 2
    assert cache_size(layers, 511).bytes_per_token == 4 * token
    assert cache_size(layers, 512).bytes_per_token == token


def test_states_and_images_do_not_grow_and_a_shared_cache_is_not_kept_twice() -> None:
    layers = [
        CacheLayer(layer=0, kind="recurrent", state_bytes=1000),
        CacheLayer(layer=1, kind="shared"),
        *attention(1, 4, window=6404, kind="cross"),
    ]
    size = cache_size(layers, 10, sequences=5, dtype="fp8", block=1)
    assert size.state_bytes == 5 * 1000
    assert size.bytes == 5 * (1000 + 6404 * 4 * 256)
    assert size.bytes_per_token == 0
    assert cache_size(layers, 10**6, sequences=5, dtype="fp8", block=1).bytes == size.bytes


def test_heads_are_split_then_repeated_and_a_latent_is_on_every_gpu() -> None:
    layers = attention(32, 8)
    whole = cache_size(layers, 4096).bytes
    assert [cache_size(layers, 4096, shards=n).bytes for n in (2, 8, 16)] == [whole // 2, whole // 8, whole // 8]
    assert cache_size(latent(61), 4096, shards=8) == cache_size(latent(61), 4096)
    state = [CacheLayer(layer=0, kind="recurrent", state_bytes=1001)]
    assert cache_size(state, 1, shards=2).bytes == 501


def test_heads_that_cannot_be_split_are_an_error() -> None:
    with pytest.raises(JobError, match="8 key-value heads cannot be split over 3 GPUs"):
        cache_size(attention(1, 8), 16, shards=3)


@pytest.mark.parametrize("name", ["context", "sequences", "block", "shards"])
def test_sizes_below_one_are_errors(name: str) -> None:
    values = {"context": 16, "sequences": 1, "block": 16, "shards": 1, name: 0}
    with pytest.raises(JobError, match=f"{name} is 0"):
        cache_size(attention(1, 1), values.pop("context"), **values)


def test_the_names_of_types() -> None:
    assert kv_dtype("FP8_E4M3") == "fp8"
    assert kv_dtype("bf16") == "bfloat16"
    with pytest.raises(JobError, match="unknown KV cache type 'q8_1'"):
        kv_dtype("q8_1")


@pytest.mark.parametrize(
    ("dtype", "block_bytes"),
    [("q8_0", 34), ("q5_1", 24), ("q5_0", 22), ("q4_1", 20), ("q4_0", 18), ("float16", 64), ("float32", 128)],
)
def test_ggml_types_are_as_large_as_the_gguf_package_says(dtype: str, block_bytes: int) -> None:
    gguf = pytest.importorskip("gguf")
    names = {"float16": "F16", "float32": "F32"}
    elements, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[names.get(dtype, dtype.upper())]]
    assert KV_DTYPES[dtype] == Fraction(8 * nbytes, elements)
    assert cache_size(attention(1, 1, 16), 1, dtype=dtype, block=1).bytes == block_bytes


KINDS = st.one_of(
    st.builds(
        lambda heads, size, window: attention(1, heads, size, window)[0],
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([64, 128]),
        st.none() | st.integers(1, 5000),
    ),
    st.just(latent(1)[0]),
    st.builds(lambda n: CacheLayer(layer=0, kind="recurrent", state_bytes=n), st.integers(1, 10**6)),
)
LAYERS = st.lists(KINDS, min_size=1, max_size=6)
CONTEXTS = st.integers(1, 20_000)
DTYPES = st.sampled_from(sorted(KV_DTYPES))


@given(LAYERS, CONTEXTS, CONTEXTS, DTYPES, st.sampled_from([1, 16, 64]))
def test_a_longer_context_never_takes_less(
    layers: list[CacheLayer], one: int, other: int, dtype: str, block: int
) -> None:
    short, long = (cache_size(layers, n, dtype=dtype, block=block).bytes for n in sorted((one, other)))
    assert short <= long


@given(LAYERS, CONTEXTS, st.integers(1, 50), DTYPES)
def test_sequences_add_up(layers: list[CacheLayer], context: int, sequences: int, dtype: str) -> None:
    one = cache_size(layers, context, dtype=dtype)
    assert cache_size(layers, context, sequences=sequences, dtype=dtype).bytes == sequences * one.bytes


@given(LAYERS, CONTEXTS, st.sampled_from([1, 2, 4, 8, 16]), DTYPES)
def test_splitting_never_gains_more_than_the_division(
    layers: list[CacheLayer], context: int, shards: int, dtype: str
) -> None:
    whole, part = (cache_size(layers, context, shards=n, dtype=dtype) for n in (1, shards))
    assert whole.bytes <= part.bytes * shards
    assert part.bytes <= whole.bytes
    assert part.bytes_per_token <= whole.bytes_per_token


@given(LAYERS, CONTEXTS)
def test_the_next_token_costs_what_it_says_without_blocks(layers: list[CacheLayer], context: int) -> None:
    before, after = (cache_size(layers, n, block=1) for n in (context, context + 1))
    assert after.bytes - before.bytes == before.bytes_per_token


@given(LAYERS, CONTEXTS, st.integers(1, 9), DTYPES)
def test_the_groups_sum_to_the_total(layers: list[CacheLayer], context: int, sequences: int, dtype: str) -> None:
    size: CacheSize = cache_size(layers, context, sequences=sequences, dtype=dtype)
    assert sum(group.bytes for group in size.groups) == size.bytes
    assert sum(group.layers for group in size.groups) == len(layers)
