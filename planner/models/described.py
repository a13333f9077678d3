"""Modules as records: what recipes see of them."""

import inspect
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from planner.models.build import config_entry, differs_by_layer, text_config
from planner.models.graph import ModuleInfo, Parameter, Structure
from planner.recipe.specs import ModelTraits, ModuleRef
from planner.upstream import REAP_CONFIG_KEYS


def classes_of(module: torch.nn.Module) -> tuple[str, ...]:
    """Class names of its MRO, own class first."""
    return tuple(c.__name__ for c in type(module).__mro__ if c not in (torch.nn.Module, object))


def structure_of(module: torch.nn.Module, owned: set[int]) -> Structure:
    """Its weights and the modules in it; `owned`: ids of weights that another unit owns."""
    parameters = tuple(
        Parameter(
            name=f".{name}",
            shape=tuple(p.shape),
            dtype=str(p.dtype).removeprefix("torch."),
            bytes=p.numel() * p.element_size(),
            tied=id(p) in owned,
        )
        for name, p in module.named_parameters()
    )
    modules = tuple(_info(name, part) for name, part in module.named_modules())
    return Structure(class_name=type(module).__name__, parameters=parameters, modules=modules)


def _info(name: str, module: torch.nn.Module) -> ModuleInfo:
    weight = getattr(module, "weight", None)
    named = ModuleInfo(name=f".{name}" if name else "", classes=classes_of(module), **_traits(module))
    if not isinstance(weight, torch.nn.Parameter) or weight.dim() < 2:
        return named
    rows = weight.shape[0]
    return replace(
        named,
        rows=rows,
        columns=weight.numel() // rows,
        itemsize=weight.element_size(),
    )


def ref_of(name: str, module: torch.nn.Module) -> ModuleRef:
    """A module that only contains others."""
    return ModuleRef(name, classes_of(module), **_traits(module))


def facts_of(config: Any) -> ModelTraits:
    """What modifiers go by in a model's config.

    compressed_tensors utils/helpers.py `get_num_attn_heads`, `get_num_kv_heads`, `get_head_dim`; reap/utils.py
    `get_moe_attrs`.
    """
    text = text_config(config)
    heads = {"heads": ("num_attention_heads",), "kv_heads": ("num_key_value_heads",)}
    entries = {name: _first(text, keys) for name, keys in {**heads, **REAP_CONFIG_KEYS}.items()}
    numbers: dict[str, Any] = {name: int(value) for name, value in entries.items() if isinstance(value, int)}
    width = _head_dim(text, numbers.get("heads", 0))
    return ModelTraits(**numbers, head_dim=width, is_head_dim_nested=not _says_head_dim(config))


def _says_head_dim(config: Any) -> bool:
    """Whether `get_head_dim` of the model's own config has an answer, or an error of its own."""
    if differs_by_layer(config, "head_dim") or hasattr(config, "head_dim"):
        return True
    return hasattr(config, "hidden_size") and hasattr(config, "num_attention_heads")


def _head_dim(text: Any, heads: int) -> int | None:
    """utils/helpers.py `get_head_dim`: an attribute of this name is the answer, None too (Mixtral's, by default)."""
    if differs_by_layer(text, "head_dim"):
        return 0
    if hasattr(text, "head_dim"):
        width = text.head_dim
        return width if width is None or isinstance(width, int) else 0
    hidden = _first(text, ("hidden_size",))
    return hidden // heads if isinstance(hidden, int) and heads else 0


def _first(config: Any, keys: Iterable[str]) -> Any:
    return next((entry for key in keys if (entry := config_entry(config, key)) is not None), None)


def _traits(module: torch.nn.Module) -> dict[str, bool]:
    """What a record says of a module beside its matrix."""
    takes_cache, takes_any = _takes(type(module).forward)
    return {
        "takes_cache": takes_cache,
        "takes_any": takes_any,
        "is_bare": next(module.parameters(), next(module.buffers(), None)) is None,
        "has_weights": next(module.parameters(recurse=False), None) is not None,
    }


@cache
def _takes(forward: Any) -> tuple[bool, bool]:
    """Whether it takes past keys and values, and arguments of any name.

    compressed_tensors quantization/lifecycle/initialize.py is_cached_attention_module.
    """
    parameters = inspect.signature(forward).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return "past_key_value" in parameters or "past_key_values" in parameters, takes_any
