"""One GPU's part of a tensor-parallel model, as a model of its own: heads, widths and vocabulary divided."""

import copy
from dataclasses import replace
from typing import Any

import torch

from planner.errors import JobError, ModelError, UnsupportedError
from planner.models.build import build_model, config_entry, model_config, text_config
from planner.models.built import BuiltModel

# What is divided where the config has it; a list has a size for each layer.
DIVIDED = (
    "num_attention_heads", "intermediate_size", "intermediate_size_mlp", "moe_intermediate_size", "ffn_hidden_size",
    "shared_expert_intermediate_size", "shared_intermediate_size", "linear_num_key_heads", "linear_num_value_heads",
    "num_global_key_value_heads",
)  # fmt: skip
# Linears of decoder layers by their usual names: outputs divided, inputs divided.
COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
ROWS = ("o_proj", "down_proj")
REPLICATED = 1.5


def build_shard(built: BuiltModel, shards: int) -> torch.nn.Module:
    """The model that one of `shards` tensor-parallel GPUs runs, 2 or more; `built` is the whole one.

    Raises JobError for heads that do not divide, UnsupportedError where the config cannot say so.
    """
    source, build, whole = built.source, built.build, built.module
    config = model_config(source, build)
    text = text_config(config)
    heads = config_entry(text, "num_attention_heads")
    if heads and heads % shards:
        raise JobError(f"{source.name}: {heads} attention heads cannot be split over {shards} GPUs")
    try:
        raw = copy.deepcopy(source.config)
        _part(raw, config, text).update(_updates(text, shards, source.name))
        part = build_model(replace(source, config=raw), build)
        _check(whole, part, shards)
    except (ModelError, UnsupportedError):  # sizes that the config cannot say apart: heads and hidden size
        part = build_model(source, build)
        _split_matrices(part, shards)
        _check(whole, part, shards)
    return part


def _part(raw: dict[str, Any], config: Any, text: Any) -> dict[str, Any]:
    """The dictionary that describes the text decoder inside of a whole config."""
    if text is config:
        return raw
    key = next((name for name in config.sub_configs if config_entry(config, name) is text), None)
    if key is None:
        raise UnsupportedError("its config does not hold the decoder's")
    part: dict[str, Any] = raw.setdefault(key, {})
    return part


def _updates(text: Any, shards: int, name: str) -> dict[str, Any]:
    updates: dict[str, Any] = {"pad_token_id": None, "vocab_size": -(-text.vocab_size // shards)}
    for key in DIVIDED:
        if (value := config_entry(text, key)) is not None:
            updates[key] = _divided(value, shards, f"{name}: {key}")
    heads, groups = config_entry(text, "num_attention_heads"), config_entry(text, "num_key_value_heads")
    if groups is not None:
        # vLLM config/model.py get_num_kv_heads: fewer heads than GPUs are repeated
        updates["num_key_value_heads"] = max(1, groups // shards)
    if heads and config_entry(text, "kv_lora_rank") is None:
        updates["head_dim"] = config_entry(text, "head_dim") or text.hidden_size // heads
    return updates


def _divided(value: Any, shards: int, where: str) -> Any:
    if isinstance(value, list):
        return [_divided(entry, shards, where) for entry in value]
    if value % shards:
        raise UnsupportedError(f"{where} {value} does not divide by {shards}")
    return value // shards


def _split_matrices(model: Any, shards: int) -> None:
    """Give the decoder layers' Linears, by their usual names, and the head the shapes of one GPU's part."""
    for layer in _decoder_layers(model).values():
        for module in layer.modules():
            parts = {name: part for name, part in module.named_children() if isinstance(part, torch.nn.Linear)}
            size = getattr(module, "head_dim", None) if "q_proj" in parts else None
            if size:
                _split_heads(module, parts, int(size), shards)
            for name, part in parts.items():
                if name in COLUMNS and not size:
                    _resize(part, _divided(part.out_features, shards, name), part.in_features)
                elif name in ROWS:
                    _resize(part, part.out_features, _divided(part.in_features, shards, name))
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Linear):
        _resize(head, -(-head.out_features // shards), head.in_features)


def _split_heads(module: Any, parts: dict[str, torch.nn.Linear], size: int, shards: int) -> None:
    """Query heads are divided; of key-value heads at least one stays."""
    heads = _divided(parts["q_proj"].out_features // size, shards, "q_proj heads")
    _resize(parts["q_proj"], heads * size, parts["q_proj"].in_features)
    key_heads = heads
    for name in ("k_proj", "v_proj"):
        if name in parts:
            key_heads = max(1, parts[name].out_features // size // shards)
            _resize(parts[name], key_heads * size, parts[name].in_features)
    for key, value in (
        ("num_key_value_groups", heads // key_heads),
        ("num_heads", heads),
        ("num_key_value_heads", key_heads),
    ):
        if hasattr(module, key):
            setattr(module, key, value)


def _resize(linear: Any, rows: int, columns: int) -> None:
    """A new weight of this shape: the old one may be tied to another module's."""
    linear.out_features, linear.in_features = rows, columns
    linear.weight = torch.nn.Parameter(linear.weight.new_empty(rows, columns), requires_grad=False)
    if linear.bias is not None:
        linear.bias = torch.nn.Parameter(linear.bias.new_empty(rows), requires_grad=False)


def _decoder_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    classes = set(getattr(model, "_no_split_modules", None) or ())
    return {name: m for name, m in model.named_modules() if type(m).__name__ in classes and "vision" not in name}


def _check(whole: torch.nn.Module, part: torch.nn.Module, shards: int) -> None:
    """Raise UnsupportedError unless every layer is divided: a config can ignore an entry.

    What is replicated (low-rank projections, routers, repeated key-value heads) is small beside it.
    """
    for name, layer in _decoder_layers(whole).items():
        other = part.get_submodule(name)
        before, after = (sum(p.numel() for p in m.parameters() if p.dim() > 1) for m in (layer, other))
        if after * shards > REPLICATED * before or _head_sizes(layer) != _head_sizes(other):
            raise UnsupportedError(f"{name} keeps {after} of {before} weights when divided by {shards}")


def _head_sizes(layer: torch.nn.Module) -> list[object]:
    return [getattr(module, "head_dim", None) for module in layer.modules()]
