"""What each layer of a model caches, read from transformers' own cache after a few tokens without data."""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.errors import UnsupportedError
from planner.formats.served_model import CacheLayer
from planner.models.build import config_entry, num_experts, quiet, text_config
from planner.models.calls import patched_forward
from planner.models.failures import ForwardError, forward_of_model, pass_on, run_forward
from planner.models.load import structure_key
from planner.models.recorder import Recorder
from planner.models.tracing import signature

PROBE_TOKENS = 4
KV_HEAD_KEYS = ("num_key_value_heads", "num_kv_heads")
_LAYER = re.compile(r"layers\.(\d+)$")
STATES = (
    "States of recurrent layers are counted in the types and shapes that transformers keeps them in; vLLM's "
    "mamba_ssm_cache_dtype can change the type."
)
INDEXER = (
    "Sparse attention's indexer keys are counted in the cache's type; vLLM keeps them in fp8 with one fp32 scale "
    "for 128 elements."
)


def read_cache(model: torch.nn.Module, name: str) -> tuple[tuple[CacheLayer, ...], tuple[str, ...]]:
    """The layers' caches in model order, and notes on what was not read from the model itself.

    Runs `model` (meta device, experts as they are) once; see `_CacheReader.read`. Raises UnsupportedError where
    neither the model nor its config says what is kept.
    """
    text = text_config(model.config)
    if not hasattr(text, "num_hidden_layers"):
        raise UnsupportedError(f"{name}: its config does not say how many layers it has")
    try:
        with forward_of_model():
            reader = _CacheReader(model, text, name)
            return tuple(reader.read()), tuple(reader.notes)
    except ForwardError as error:
        why = f"the model does not fill one without data ({error.reason})"
        layers = tuple(_from_config(number, text, name, why) for number in range(text.num_hidden_layers))
        return layers, (f"The cache is derived from the config: {why}",)


# ---------------------------------------------------------------------- the model fills a cache
class LayerKinds:
    """A number for each layer, the same for equal ones; every layer is looked at once."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._of: dict[torch.nn.Module, int] = {}

    def __call__(self, layer: torch.nn.Module) -> int:
        if layer not in self._of:
            self._of[layer] = self._numbers.setdefault(structure_key(layer, set()), len(self._numbers))
        return self._of[layer]


def filled_cache(
    model: Any, tokens: int = PROBE_TOKENS, batch: int = 1, kinds: LayerKinds | None = None, **more: torch.Tensor
) -> Any:
    """transformers' cache of `batch` sequences after a forward of `tokens` tokens.

    With the model's `kinds`, of equal layers the first runs, the others keep what it keeps. `more` goes to the forward
    as well. Raises UnsupportedError for a model that takes no such cache, and whatever the forward raises.
    """
    from transformers.cache_utils import DynamicCache

    ids = torch.full((batch, tokens), 9)
    with quiet(), torch.no_grad(), ExitStack() as stack:
        cache: Any = DynamicCache(config=model.config)
        if kinds is not None:
            known: dict[object, tuple[int, Any]] = {}
            for number, layer in _decoder_layers(model):
                if number < len(cache.layers):  # the others read another layer's cache
                    stack.enter_context(patched_forward(layer, _first_alone(layer, number, cache, kinds, known)))
        with Recorder(num_experts(model.config)):
            fields = {cache_argument(model): cache, "attention_mask": torch.ones_like(ids), "use_cache": True}
            run_forward(model, {"input_ids": ids, **fields, **more})
    return cache


def _first_alone(
    layer: Any, number: int, cache: Any, kinds: LayerKinds, known: dict[object, tuple[int, Any]]
) -> Callable[..., Any]:
    """The layer's forward; after an equal layer's, only what that one kept and the shape of what it returned."""
    original = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        kept = cache.layers[number]
        key = (kinds(layer), signature((args, kwargs)), type(kept), getattr(kept, "sliding_window", None))
        if key in known:
            template, result = known[key]
            vars(kept).update(vars(cache.layers[template]))
            return pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, result)
        result = pass_on(original, args, kwargs)
        if getattr(kept, "keys", None) is not None or _state_bytes(kept):
            known[key] = number, result
        return result

    return forward


def cache_argument(model: Any) -> str:
    """What the model's forward calls its cache."""
    accepted = inspect.signature(model.forward).parameters
    name = next((n for n in ("past_key_values", "cache_params") if n in accepted), None)
    if name is None:
        raise UnsupportedError(
            f"{model.config.model_type}: {type(model).__name__} takes no cache of transformers' kind"
        )
    return name


class _CacheReader:
    """One model's cache, layer by layer, and what the reader should know of it."""

    def __init__(self, model: Any, text: Any, name: str) -> None:
        self.model, self.text, self.name = model, text, name
        self.cache: Any = filled_cache(model, kinds=LayerKinds())
        self.notes: dict[str, None] = {}

    def read(self) -> Iterator[CacheLayer]:
        """A layer that keeps both a state and keys has two records, one that keeps nothing has none."""
        layers = self.cache.layers
        for number in range(self.text.num_hidden_layers):
            if number >= len(layers):  # cache_utils.py get_layer_types_and_kwargs: num_kv_shared_layers
                yield CacheLayer(layer=number, kind="shared")
            else:
                yield from self._layer(number, layers[number])

    def _layer(self, number: int, layer: Any) -> Iterator[CacheLayer]:
        if type(layer).__module__ != "transformers.cache_utils":
            raise UnsupportedError(f"{self.name}: what {type(layer).__name__} caches (layer {number}) is not modelled")
        if state := _state_bytes(layer):
            self.notes[STATES] = None
            yield CacheLayer(layer=number, kind="recurrent", state_bytes=state)
        if number in (getattr(self.text, "cross_attention_layers", None) or ()):
            yield self._cross(number)
        elif getattr(layer, "keys", None) is not None:
            yield self._attention(number, layer)
        elif hasattr(layer, "keys"):
            yield self._own_state(number)
        if (indexer := getattr(layer, "indexer_keys", None)) is not None:
            self.notes[INDEXER] = None
            yield CacheLayer(layer=number, kind="full", heads=1, key_dim=indexer.shape[-1])

    def _attention(self, number: int, layer: Any) -> CacheLayer:
        heads, key, value = layer.keys.shape[1], layer.keys.shape[-1], layer.values.shape[-1]
        window = getattr(layer, "sliding_window", None)
        if latent := self._latent(heads, key, value):
            return CacheLayer(layer=number, kind="latent", heads=1, key_dim=latent)
        chunked = _layer_type(number, self.text) == "chunked_attention"
        return CacheLayer(
            layer=number,
            kind="full" if window is None else "chunked" if chunked else "sliding",
            heads=self._unrepeated(heads),
            key_dim=key,
            value_dim=value,
            window=None if window is None else int(window),
        )

    def _latent(self, heads: int, key: int, value: int) -> int | None:
        """Elements of MLA's row; servers keep it whether transformers keeps it or the keys it expands to.

        vLLM layers/mla.py, SGLang and llama.cpp: kv_lora_rank + qk_rope_head_dim for all heads.
        """
        rank, rope = getattr(self.text, "kv_lora_rank", None), getattr(self.text, "qk_rope_head_dim", None)
        if rank is None or rope is None:
            return None
        if (heads, key, value) != (1, rank, rope):
            expanded = heads * (key + value)
            self.notes[f"Servers keep MLA's latent, {rank + rope} elements for each token and layer; transformers' "
                       f"own cache keeps the keys and values that it expands to, {expanded}."] = None  # fmt: skip
        return int(rank + rope)

    def _unrepeated(self, heads: int) -> int:
        """Key-value heads as servers keep them: once for a group of query heads.

        transformers' modeling_falcon.py FalconAttention._split_heads repeats them before they are cached; vLLM
        models/falcon.py (num_kv_heads) and llama.cpp (n_head_kv) do not.
        """
        told = next((v for key in KV_HEAD_KEYS if isinstance(v := config_entry(self.text, key), int)), None)
        if not told or told >= heads or heads != config_entry(self.text, "num_attention_heads"):
            return heads
        self.notes[f"Servers keep {told} key-value heads; transformers' own cache repeats them for all {heads}."] = None
        return told

    def _cross(self, number: int) -> CacheLayer:
        """Keys and values of one image in all its tiles (mllama: each tile has its patches and a class token)."""
        vision = getattr(self.model.config, "vision_config", None)
        if vision is None:
            raise UnsupportedError(f"{self.name}: no vision config says what cross-attention layer {number} attends to")
        tokens = vision.max_num_tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
        self.notes[f"Cross-attention layers keep {tokens} tokens: one image in {vision.max_num_tiles} tiles."] = None
        size = self.text.hidden_size // self.text.num_attention_heads
        heads = self.text.num_key_value_heads
        return CacheLayer(layer=number, kind="cross", heads=heads, key_dim=size, value_dim=size, window=tokens)

    def _own_state(self, number: int) -> CacheLayer:
        """A layer that put nothing into the cache: its modules keep a state of their own (recurrent_gemma)."""
        layer = _decoder_layer(self.model, number)
        kept = (v for m in layer.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)) if layer else ()
        state = sum(tensor.numel() * tensor.element_size() for tensor in kept)
        if not state:
            raise UnsupportedError(f"{self.name}: layer {number} puts nothing into transformers' cache")
        self.notes[STATES] = None
        return CacheLayer(layer=number, kind="recurrent", state_bytes=state)


def _decoder_layer(model: torch.nn.Module, number: int) -> torch.nn.Module | None:
    """The text decoder's layer of this number."""
    return dict(_decoder_layers(model)).get(number)


def _decoder_layers(model: torch.nn.Module) -> Iterator[tuple[int, torch.nn.Module]]:
    """The text decoder's layers with their numbers."""
    classes = set(getattr(model, "_no_split_modules", None) or ())
    for name, module in model.named_modules():
        numbered = _LAYER.search(name)
        if numbered and type(module).__name__ in classes and "vision" not in name:
            yield int(numbered[1]), module


def _state_bytes(layer: Any) -> int:
    """Convolution and recurrent states of one sequence (cache_utils.py LinearAttentionCacheLayerMixin)."""
    states = [*getattr(layer, "conv_states", {}).values(), *getattr(layer, "recurrent_states", {}).values()]
    return sum(state.numel() * state.element_size() for state in states if state is not None)


def _layer_type(number: int, text: Any) -> str:
    """As cache_utils.py get_layer_types_and_kwargs infers it."""
    types = getattr(text, "layer_types", None)
    if types:
        return str(types[number])
    if getattr(text, "sliding_window", None) is not None:
        return "sliding_attention"
    return "chunked_attention" if getattr(text, "attention_chunk_size", None) is not None else "full_attention"


# ---------------------------------------------------------------------- from the config
def _from_config(number: int, text: Any, name: str, why: str) -> CacheLayer:
    """Key-value heads and head size as the config names them; `why` they are not read from the model's own cache."""
    kind = _layer_type(number, text)
    if kind not in ("full_attention", "sliding_attention", "chunked_attention"):
        raise UnsupportedError(f"{name}: what layer {number} ({kind}) caches is not known: {why}")
    rank, rope = getattr(text, "kv_lora_rank", None), getattr(text, "qk_rope_head_dim", None)
    if rank is not None and rope is not None:
        return CacheLayer(layer=number, kind="latent", heads=1, key_dim=int(rank + rope))
    heads = next((v for key in (*KV_HEAD_KEYS, "num_attention_heads") if (v := getattr(text, key, None))), None)
    size = getattr(text, "head_dim", None) or (heads and text.hidden_size // text.num_attention_heads)
    if not heads or not size:
        raise UnsupportedError(
            f"{name}: the config does not say how many key-value heads layer {number} has, and {why}"
        )
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
