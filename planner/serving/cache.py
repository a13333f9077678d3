"""Bytes of a model's cache while serving: keys and values, latents, windows and states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil

from planner.errors import JobError
from planner.formats.served_model import CacheKind, CacheLayer
from planner.hints import did_you_mean
from planner.serving.engines import VLLM
from planner.serving.engines.facts import EngineFacts, whole_blocks

# Bits per element of keys and values, scales included.
# fp8, int8: one scale for a whole layer, which is not counted (vLLM layers/quantization/kv_cache.py
# BaseKVCacheMethod; TensorRT-LLM kv_cache_scaling_factor). vLLM's own int8 (v1/kv_cache_interface.py,
# int8_per_token_head) adds an fp32 scale for each token and head: 8.25 bits where a head has 128 elements.
# nvfp4: an fp8 scale for 16 elements (vLLM v1/kv_cache_interface.py FullAttentionSpec.real_page_size_bytes).
# q*: ggml blocks of 32 elements with an fp16 scale, q4_1 and q5_1 with an fp16 minimum too
# (llama.cpp ggml/src/ggml-common.h block_q8_0, block_q5_1, ...).
KV_DTYPES: Mapping[str, Fraction] = {
    "float32": Fraction(32),
    "bfloat16": Fraction(16),
    "float16": Fraction(16),
    "fp8": Fraction(8),
    "int8": Fraction(8),
    "nvfp4": Fraction(9, 2),
    "q8_0": Fraction(17, 2),
    "q5_1": Fraction(6),
    "q5_0": Fraction(11, 2),
    "q4_1": Fraction(5),
    "q4_0": Fraction(9, 2),
}
_ALIASES = {
    "fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16", "f16": "float16",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers that cache alike, on one GPU."""

    kind: CacheKind
    layers: int
    heads: int
    """Key-value heads of the whole model."""
    key_dim: int
    value_dim: int
    window: int | None
    tokens: int
    """Kept of a sequence while its prompt is read, rounding included; 0 for states."""
    bytes: int
    """Taken by all these layers for all sequences, on one GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """What a cache takes on one GPU."""

    bytes: int
    bytes_per_token: int
    """What one more token of one sequence costs at this context, block rounding left out."""
    state_bytes: int
    """The part of `bytes` that recurrent layers keep, however long the context is."""
    groups: tuple[CacheGroup, ...]


def kv_dtype(name: str) -> str:
    """The name of this dtype in KV_DTYPES. Raises JobError for one that is not there."""
    key = name.strip().lower()
    key = _ALIASES.get(key, key)
    if key not in KV_DTYPES:
        hint = did_you_mean(key, [*KV_DTYPES, *_ALIASES]) or ";"
        raise JobError(f"unknown KV cache type {name!r}{hint} there are {', '.join(KV_DTYPES)}")
    return key


def cache_size(
    layers: Sequence[CacheLayer],
    context: int,
    *,
    sequences: int = 1,
    dtype: str = "bfloat16",
    block: int = 16,
    shards: int = 1,
    chunk: int | None = None,
    prefilled: int = 1,
    engine: EngineFacts = VLLM,
) -> CacheSize:
    """What `sequences` sequences of `context` tokens keep on each of `shards` tensor-parallel GPUs.

    Pages of `block` tokens, 1 for none: vLLM's are 16 tokens, 64 for some MLA kernels. Of a sliding window or
    chunk, sequences that decode keep what vLLM keeps then (v1/core/single_type_kv_cache_manager.py
    SlidingWindowManager, ChunkedLocalAttentionManager): blocks that lie outside are freed, and a window
    that begins inside of a block costs one block more. `prefilled` sequences at a time read their prompts in
    steps of `chunk` tokens, and there `engine` needs more (its `window_room`); without a `chunk` only
    decoding is counted. transformers keeps window - 1 tokens in a DynamicCache, and the whole window from the
    first token on in a StaticCache (cache_utils.py). States have types of their own: `dtype` does not touch them.

    Raises JobError for an unknown dtype, for sizes below one, and for heads that `shards` cannot divide.
    """
    for name, value in (("context", context), ("sequences", sequences), ("block", block), ("shards", shards)):
        if value < 1:
            raise JobError(f"KV cache: {name} is {value}; it must be at least 1")
    bits = KV_DTYPES[kv_dtype(dtype)]
    alike: dict[tuple[object, ...], list[CacheLayer]] = {}
    for layer in layers:
        key = (layer.kind, layer.heads, layer.key_dim, layer.value_dim, layer.window, layer.state_bytes)
        alike.setdefault(key, []).append(layer)
    tokens = partial(_tokens, context=context, block=block, chunk=chunk, engine=engine)
    groups = tuple(
        _group(same, *tokens(same[0]), sequences, min(prefilled, sequences), bits, shards) for same in alike.values()
    )
    growing = (same for same in alike.values() if _grows(same[0], context, chunk, engine))
    return CacheSize(
        bytes=sum(group.bytes for group in groups),
        bytes_per_token=ceil(sum(len(same) * _token_bits(same[0], bits, shards) for same in growing) / 8),
        state_bytes=sum(group.bytes for group in groups if group.kind == "recurrent"),
        groups=groups,
    )


def _group(
    same: list[CacheLayer], decoding: int, reading: int, sequences: int, prefilled: int, bits: Fraction, shards: int
) -> CacheGroup:
    """`prefilled` of the sequences have room for `reading` tokens, the others for `decoding`."""
    layer, token = same[0], _token_bits(same[0], bits, shards)
    tokens_bytes = (sequences - prefilled) * ceil(decoding * token / 8) + prefilled * ceil(reading * token / 8)
    return CacheGroup(
        kind=layer.kind,
        layers=len(same),
        heads=layer.heads,
        key_dim=layer.key_dim,
        value_dim=layer.value_dim,
        window=layer.window,
        tokens=reading,
        bytes=(tokens_bytes + sequences * _share(layer.state_bytes, shards)) * len(same),
    )


def _tokens(layer: CacheLayer, *, context: int, block: int, chunk: int | None, engine: EngineFacts) -> tuple[int, int]:
    """Tokens of one sequence that one layer has room for: while it decodes, and while its prompt is read."""
    decoding = _decoding_tokens(layer, context, block)
    if chunk is None or layer.window is None or layer.kind == "cross":
        return decoding, decoding
    room = engine.window_room(layer.kind, layer.window, context, block, chunk)
    return (room, room) if engine.room_from_the_start else (decoding, max(decoding, room))


def _decoding_tokens(layer: CacheLayer, context: int, block: int) -> int:
    """Tokens of one sequence that one layer keeps while decoding, at the window's worst place."""
    if layer.kind in ("recurrent", "shared"):
        return 0
    whole = whole_blocks(context, block)
    if layer.window is None:
        return whole
    if layer.kind == "cross":
        return whole_blocks(layer.window, block)
    if layer.kind == "chunked" and layer.window % block == 0:
        return min(whole, layer.window)  # chunks begin where blocks begin
    # A window may begin inside of a block: its first and its last block are both partly used.
    return min(whole, whole_blocks(layer.window - 1, block) + block)


def _grows(layer: CacheLayer, context: int, chunk: int | None, engine: EngineFacts) -> bool:
    """Whether a longer context needs more once the prompt is read."""
    if layer.kind in ("recurrent", "shared", "cross"):
        return False
    reach = layer.window
    if layer.window is not None and chunk is not None:
        reach = engine.window_reach(layer.window, chunk)
    return reach is None or context < reach


def _token_bits(layer: CacheLayer, bits: Fraction, shards: int) -> Fraction:
    """Bits of one token in one layer on one of the GPUs."""
    return _local_heads(layer, shards) * (layer.key_dim + layer.value_dim) * bits


def _local_heads(layer: CacheLayer, shards: int) -> int:
    """A latent is whole on each GPU; fewer heads than GPUs are repeated.

    vLLM config/model.py ModelConfig.get_num_kv_heads: max(1, total_num_kv_heads // tensor_parallel_size).
    """
    if layer.kind == "latent" or layer.heads == 0:
        return layer.heads
    if layer.heads % shards and shards % layer.heads:
        raise JobError(f"{layer.heads} key-value heads cannot be split over {shards} GPUs: neither divides the other")
    return max(1, layer.heads // shards)


def _share(amount: int, shards: int) -> int:
    """States are split by heads or channels (vLLM layers/mamba/mamba_utils.py MambaStateShapeCalculator)."""
    return ceil(amount / shards)
