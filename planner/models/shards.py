"""One GPU's part of a tensor-parallel model, as a model of its own: heads, widths and vocabulary divided."""

import copy
from dataclasses import replace
from typing import Any

import torch

from planner.errors import JobError, ModelError, UnsupportedError
from planner.job import Job
from planner.models.build import build_model, model_config, text_config
from planner.models.source import ModelSource

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


def build_shard(source: ModelSource, job: Job, shards: int) -> torch.nn.Module:
    """The model that one of `shards` tensor-parallel GPUs runs.

    Raises JobError for heads that do not divide, UnsupportedError where the config cannot say so.
    """
    if shards == 1:
        return build_model(source, job)
    config = model_config(source, job)
    text = text_config(config)
    heads = int(getattr(text, "num_attention_heads", 0) or 0)
    if heads and heads % shards:
        raise JobError(f"{source.name}: {heads} attention heads cannot be split over {shards} GPUs")
    whole = build_model(source, job)
    try:
        raw = copy.deepcopy(source.config)
        _part(raw, config, text).update(_updates(text, shards, source.name))
        part = build_model(replace(source, config=raw), job)
        _check(whole, part, shards)
        return part
    except (ModelError, UnsupportedError):  # sizes that the config cannot say apart: heads and hidden size
        part = build_model(source, job)
        _split_matrices(part, shards)
        _check(whole, part, shards)
        return part


def _part(raw: dict[str, Any], config: Any, text: Any) -> dict[str, Any]:
    """The dictionary that describes the text decoder inside of a whole config."""
    if text is config:
        return raw
    key = next(name for name in config.sub_configs if getattr(config, name, None) is text)
    part: dict[str, Any] = raw.setdefault(key, {})
    return part


def _updates(text: Any, shards: int, name: str) -> dict[str, Any]:
    updates: dict[str, Any] = {"pad_token_id": None, "vocab_size": -(-text.vocab_size // shards)}
    for key in DIVIDED:
        if (value := getattr(text, key, None)) is not None:
            updates[key] = _divided(value, shards, f"{name}: {key}")
    heads, groups = getattr(text, "num_attention_heads", None), getattr(text, "num_key_value_heads", None)
    if groups is not None:
        # vLLM config/model.py get_num_kv_heads: fewer heads than GPUs are repeated
        updates["num_key_value_heads"] = max(1, groups // shards)
    if heads and getattr(text, "kv_lora_rank", None) is None:
        updates["head_dim"] = getattr(text, "head_dim", None) or text.hidden_size // heads
    return updates


def _divided(value: Any, shards: int, where: str) -> Any:
    if isinstance(value, list):
        return [_divided(entry, shards, where) for entry in value]
    if value % shards:
        raise UnsupportedError(f"{where} {value} does not divide by {shards}")
    return value // shards


def _split_matrices(model: Any, shards: int) -> None:
    """Give the decoder layers' Linears, by their usual names, and the head the shapes of one GPU's part."""
    text = text_config(model.config)
    heads = getattr(text, "num_attention_heads", None)
    if not heads:
        raise UnsupportedError("its layers have no attention heads to divide")
    groups = getattr(text, "num_key_value_heads", None) or heads
    kept = max(1, groups // shards)
    for layer in _decoder_layers(model).values():
        for name, module in layer.named_modules():
            last = name.rpartition(".")[2]
            if last in ("k_proj", "v_proj"):
                _resize(module, module.out_features // groups * kept, module.in_features)
            elif last in COLUMNS:
                _resize(module, _divided(module.out_features, shards, name), module.in_features)
            elif last in ROWS:
                _resize(module, module.out_features, _divided(module.in_features, shards, name))
            for key, value in (("num_key_value_groups", heads // shards // kept), ("num_heads", heads // shards)):
                if hasattr(module, key):
                    setattr(module, key, value)
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Linear):
        _resize(head, -(-head.out_features // shards), head.in_features)


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
