"""What each layer of a model caches, read from transformers' own cache after a few tokens without data."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from planner.errors import PlannerError, UnsupportedError
from planner.footprint.model import CacheLayer
from planner.models.build import num_experts, quiet, text_config
from planner.models.recorder import Recorder

PROBE_TOKENS = 4


def read_cache(model: torch.nn.Module, name: str) -> tuple[tuple[CacheLayer, ...], tuple[str, ...]]:
    """The layers' caches in model order, and notes on what was not read from the model itself.

    Runs `model` (meta device, experts as they are) once. A layer that keeps both a state and keys has two
    records; one that keeps nothing (a bare MLP) has none. Raises UnsupportedError where neither the model
    nor its config says what is kept.
    """
    text = text_config(model.config)
    try:
        read = [*_read_layers(list(filled_cache(model).layers), text, name)]
        return tuple(read), tuple(_notes(read, text))
    except (PlannerError, RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        note = f"The cache is derived from the config: the model does not fill one without data ({reason})"
        return tuple(_from_config(number, text, name) for number in range(text.num_hidden_layers)), (note,)


# ---------------------------------------------------------------------- the model fills a cache
def filled_cache(model: Any, tokens: int = PROBE_TOKENS, batch: int = 1) -> Any:
    """transformers' cache of `batch` sequences after a forward of `tokens` tokens.

    Raises UnsupportedError for a model that takes no such cache; whatever the forward itself raises.
    """
    from transformers.cache_utils import DynamicCache

    experts = num_experts(model.config)
    ids = torch.full((batch, tokens), 9)
    with quiet(), torch.no_grad():
        cache = DynamicCache(config=model.config)
        with Recorder(1 / experts if experts else 0.0):
            fields = {cache_argument(model): cache, "attention_mask": torch.ones_like(ids), "use_cache": True}
            model(input_ids=ids, **fields)
    return cache


def cache_argument(model: torch.nn.Module) -> str:
    """What the model's forward calls its cache."""
    accepted = inspect.signature(model.forward).parameters
    name = next((n for n in ("past_key_values", "cache_params") if n in accepted), None)
    if name is None:
        raise UnsupportedError(f"{type(model).__name__} takes no cache of transformers' kind")
    return name


def _read_layers(layers: list[Any], text: Any, name: str) -> Iterator[CacheLayer]:
    for number in range(text.num_hidden_layers):
        if number >= len(layers):
            yield CacheLayer(layer=number, kind="shared")  # get_layer_types_and_kwargs: num_kv_shared_layers
        else:
            yield from _read_layer(number, layers[number], text, name)


def _read_layer(number: int, layer: Any, text: Any, name: str) -> Iterator[CacheLayer]:
    """One layer of transformers' cache_utils.py."""
    state = _state_bytes(layer)
    if state:
        yield CacheLayer(layer=number, kind="recurrent", state_bytes=state)
    if not hasattr(layer, "keys"):
        return
    if number in (getattr(text, "cross_attention_layers", None) or ()):
        yield _cross(number, text, name)
    elif layer.keys is None:
        yield _from_config(number, text, name)
    else:
        yield _attention(number, layer, text)
    if (indexer := getattr(layer, "indexer_keys", None)) is not None:
        yield CacheLayer(layer=number, kind="full", heads=1, key_dim=indexer.shape[-1])


def _state_bytes(layer: Any) -> int:
    """Convolution and recurrent states of one sequence (LinearAttentionCacheLayerMixin)."""
    states = [*getattr(layer, "conv_states", {}).values(), *getattr(layer, "recurrent_states", {}).values()]
    return sum(state.numel() * state.element_size() for state in states if state is not None)


def _attention(number: int, layer: Any, text: Any) -> CacheLayer:
    heads, key, value = layer.keys.shape[1], layer.keys.shape[-1], layer.values.shape[-1]
    rank, rope = getattr(text, "kv_lora_rank", None), getattr(text, "qk_rope_head_dim", None)
    if rank is not None and (heads, key, value) == (1, rank, rope):
        return CacheLayer(layer=number, kind="latent", heads=1, key_dim=key + value)
    window = getattr(layer, "sliding_window", None)
    if window is None:
        return CacheLayer(layer=number, kind="full", heads=heads, key_dim=key, value_dim=value)
    kind = "chunked" if _layer_type(number, text) == "chunked_attention" else "sliding"
    return CacheLayer(
        layer=number,
        kind="chunked" if kind == "chunked" else "sliding",
        heads=heads,
        key_dim=key,
        value_dim=value,
        window=int(window),
    )


def _layer_type(number: int, text: Any) -> str:
    types = getattr(text, "layer_types", None)
    if types:
        return str(types[number])
    if getattr(text, "sliding_window", None) is not None:
        return "sliding_attention"
    return "chunked_attention" if getattr(text, "attention_chunk_size", None) is not None else "full_attention"


def _notes(read: list[CacheLayer], text: Any) -> Iterator[str]:
    return iter(())


# ---------------------------------------------------------------------- from the config
def _from_config(number: int, text: Any, name: str) -> CacheLayer:
    """Key-value heads and head size as the config names them."""
    kind = _layer_type(number, text)
    if kind not in ("full_attention", "sliding_attention", "chunked_attention"):
        raise UnsupportedError(f"{name}: what layer {number} ({kind}) caches is not known")
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
    size = getattr(text, "head_dim", None) or (heads and text.hidden_size // text.num_attention_heads)
    if not heads or not size:
        raise UnsupportedError(f"{name}: the config does not say how many key-value heads layer {number} has")
    keys = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    window = getattr(text, keys[kind]) if kind in keys else None
    return CacheLayer(
        layer=number,
        kind="full" if window is None else "chunked" if kind == "chunked_attention" else "sliding",
        heads=int(heads),
        key_dim=int(size),
        value_dim=int(size),
        window=window,
    )


def _cross(number: int, text: Any, name: str) -> CacheLayer:
    raise UnsupportedError(f"{name}: cross-attention is not read yet")
