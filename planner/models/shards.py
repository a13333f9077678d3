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
    raw = copy.deepcopy(source.config)
    _part(raw, config, text).update(_updates(text, shards, source.name))
    try:
        model = build_model(replace(source, config=raw), job)
    except ModelError as error:
        raise UnsupportedError(f"its config cannot be divided by {shards} ({error})") from error
    _check(build_model(source, job), model, shards)
    return model


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


def _check(whole: torch.nn.Module, part: torch.nn.Module, shards: int) -> None:
    """Raise UnsupportedError unless every large matrix of a layer is divided: a config can ignore an entry."""
    classes = set(getattr(whole, "_no_split_modules", None) or ())
    for name, layer in whole.named_modules():
        if type(layer).__name__ in classes and "vision" not in name:
            other = part.get_submodule(name)
            before, after = (sum(p.numel() for p in m.parameters() if p.dim() > 1) for m in (layer, other))
            if after * shards > 1.5 * before:
                raise UnsupportedError(f"{name} keeps {after} of {before} weights when divided by {shards}")
