"""From a model's name to what serving needs to know of it, and to the activations of its prefill."""

from typing import Any

from planner.errors import UnsupportedError
from planner.formats.served_model import CacheLayer, ServedModel
from planner.formats.tensors import Weight, weights_of
from planner.job import Build, dtype_named
from planner.models.build import max_positions, model_config, num_experts, reading_notes, text_config
from planner.models.built import BuiltModel, built_model
from planner.models.kinds import BESIDE_TEXT
from planner.models.load import list_parts
from planner.models.source import Named, load_source
from planner.serving.activations import Activations
from planner.serving.cache_layers import read_cache
from planner.serving.prefill import PrefillTracer

PER_TOKEN_KEYS = ("num_experts_per_tok", "top_k_experts", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k")


def load_served(model: Named, dtype: str = "bfloat16") -> tuple[ServedModel, Activations]:
    """The model of this name as servers see it, and the activations of its prefill.

    `dtype` is what it computes and keeps its states in. Raises ModelError for a model that cannot be read
    or built, JobError for a type that is no DType, UnsupportedError for an encoder, and where neither model nor
    config says what a layer caches.
    """
    source, build = load_source(model), Build(dtype=dtype_named(dtype))
    _check_decoder(model_config(source, build), source.name)
    return _served(built_model(source, build))


def served_of(built: BuiltModel) -> tuple[ServedModel, Activations]:
    """The model that a compression job was planned for, as servers see it.

    Raises UnsupportedError as `load_served` does. `built` must hold all of its layers.
    """
    _check_decoder(built.module.config, built.source.name)
    return _served(built)


def _served(built: BuiltModel) -> tuple[ServedModel, Activations]:
    module: Any = built.module
    config, source, name = module.config, built.source, built.source.name
    text = text_config(config)
    cache, notes = read_cache(module, name)
    graph = list_parts(built)
    weights = weights_of(graph)
    experts, chosen = num_experts(config), _first(text, PER_TOKEN_KEYS) or 0
    served = ServedModel(
        name=name,
        architecture=graph.architecture,
        model_type=str(text.model_type),
        parameters=graph.parameters,
        active_parameters=active_parameters(weights, experts, chosen, graph.embedding if graph.tied_embeddings else ""),
        weights=weights,
        cache=cache,
        layers=_size(text, "num_hidden_layers", name),
        hidden_size=_size(text, "hidden_size", name),
        attention_heads=int(getattr(text, "num_attention_heads", 0) or 0),
        kv_heads=_kv_heads(cache),
        vocabulary=_size(text, "vocab_size", name),
        experts=experts,
        experts_per_token=chosen if experts else 0,
        max_positions=max_positions(config),
        tied=graph.tied_embeddings,
        graph=graph,
        notes=(
            *(*source.notes, *reading_notes(source, module)),
            *(f"Not loaded from the checkpoint: {what}" for what in source.not_loaded),
            *notes,
        ),
    )
    return served, PrefillTracer(built)


def _check_decoder(config: Any, name: str) -> None:
    """Raise UnsupportedError for what transformers can build as a decoder, but is none.

    WhisperForCausalLM is a decoder that lacks its encoder; BertLMHeadModel attends to both sides unless its config
    says is_decoder.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    text = text_config(config)
    if any(getattr(part, "is_encoder_decoder", False) for part in (config, text)):
        raise UnsupportedError(f"{name}: {text.model_type} has an encoder and a decoder; serving sizes decoders alone")
    causal = getattr(text, "is_decoder", getattr(text, "causal", None))
    if causal is False and text.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise UnsupportedError(
            f"{name}: {text.model_type} is an encoder (is_decoder is false): it keeps no cache and generates no text"
        )


def active_parameters(weights: tuple[Weight, ...], experts: int, chosen: int, head_table: str = "") -> int:
    """Weights that decoding one token of text reads.

    All but tables that are looked up, the vision tower and its projector; of `experts` routed experts the
    `chosen` ones. `head_table` is the module of a token embedding that is the head as well: read whole.
    """
    total = 0
    for weight in weights:
        looked_up = "Embedding" in weight.classes and weight.module != head_table
        if looked_up or weight.unit in BESIDE_TEXT:
            continue
        total += weight.elements * chosen // experts if _is_routed(weight) and experts and chosen else weight.elements
    return total


def _is_routed(weight: Weight) -> bool:
    """An expert's own matrix, or all experts of a layer in one parameter."""
    fused = len(weight.shape) == 3 and any(name.endswith("Experts") for name in weight.classes)
    return weight.is_expert or fused


def _first(config: Any, keys: tuple[str, ...]) -> int | None:
    return next((int(value) for key in keys if isinstance(value := getattr(config, key, None), int)), None)


def _size(config: Any, key: str, name: str) -> int:
    if (found := _first(config, (key,))) is None:
        raise UnsupportedError(f"{name}: its config has no {key}; serving needs it")
    return found


def _kv_heads(cache: tuple[CacheLayer, ...]) -> int:
    """The most key-value heads of any layer: what tensor parallelism divides."""
    return max((layer.heads for layer in cache), default=0)
