"""LLM Compressor recipes -> plain records. `planner.recipe.files` reads, `planner.recipe.schemes` resolves.

Mirrors llmcompressor/recipe/recipe.py `from_dict`: every mapping whose key ends in `_stage` is a
stage, every mapping in it whose key ends in `_modifiers` is a group, and the modifiers of all
groups of all stages run in the order of the file. Everything else is passed over in silence there;
here it becomes a note. 0.14 evaluates no `args` or `eval(...)` placeholders, so neither does this.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from planner.errors import RecipeError, UnsupportedError
from planner.hints import did_you_mean, few, shorten
from planner.recipe.files import RecipeInfo, list_recipes, read_recipe
from planner.recipe.schemes import ModifierFields, QuantizationFields, resolve_groups, resolve_kv_cache, validated
from planner.recipe.specs import GPTQSpec, ModifierSpec, QuantizationSpec, Recipe, Scheme, SparseGPTSpec

__all__ = ["RecipeInfo", "list_recipes", "load_recipe", "recipe_from_dict"]

# ModifierFactory.load_from_package("llmcompressor.modifiers"), less those modelled below.
NOT_MODELLED = (
    "AWQModifier",
    "AutoRoundModifier",
    "ConstantPruningModifier",
    "LogarithmicEqualizationModifier",
    "MagnitudePruningModifier",
    "QuIPModifier",
    "REAPPruningModifier",
    "SmoothQuantModifier",
    "SpinQuantModifier",
    "WandaPruningModifier",
)
# gptq/base.py `resolve_actorder` runs for these; no other strategy suits a Linear's weights.
_ORDERED = ("group", "tensor_group", "channel", "tensor", "block")
_SHAPE = "a recipe looks like {quant_stage: {quant_modifiers: {GPTQModifier: {targets: [Linear], scheme: W4A16}}}}"

Entry = tuple[str, str, Any]
"""Path of a modifier, its type, its fields."""


class GPTQFields(QuantizationFields):
    """Fields of GPTQModifier (modifiers/gptq/base.py)."""

    block_size: int = Field(default=128, ge=1)
    dampening_frac: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    actorder: Any = None
    batched_quantization: Any = "auto"

    @field_validator("actorder")
    @classmethod
    def _known_order(cls, value: Any) -> Any:
        # helpers.py `apply_activation_ordering` raises for any other word, after hours of calibration
        if value not in ("static", "weight", None):
            raise ValueError("must be static, weight or null (no reordering)")
        return value

    @field_validator("batched_quantization")
    @classmethod
    def _auto_or_count(cls, value: Any) -> Any:
        count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not (count or value in ("auto", None)):
            raise ValueError("must be auto, a positive number, or null (no batching)")
        return value


class SparseGPTFields(ModifierFields):
    """Fields of SparseGPTModifier (modifiers/pruning/sparsegpt/{base,sgpt_base}.py)."""

    sparsity: Any
    sparsity_profile: str | None = None
    mask_structure: Any = (0, 0)
    owl_m: int | None = None
    owl_lmbda: float | None = None
    sequential_update: bool | None = False
    targets: Any = Field(default_factory=lambda: ["Linear"])
    ignore: list[str] = Field(default_factory=list)
    block_size: int = Field(default=128, ge=1)
    dampening_frac: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    preserve_sparsity_mask: bool = False
    offload_hessians: bool = False

    @field_validator("sparsity")
    @classmethod
    def _a_share(cls, value: Any) -> Any:
        if isinstance(value, list):
            return value
        try:
            share = float(value)
        except (TypeError, ValueError):
            share = -1.0
        if not 0 <= share <= 1:
            raise ValueError("must be a share of the weights, from 0 to 1")
        return share

    @field_validator("mask_structure")
    @classmethod
    def _n_of_m(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError("must stand in quotes, '2:4': YAML reads 2:4 as the number 124")
        found = re.fullmatch(r"\s*(\d{1,6})\s*:\s*(\d{1,6})\s*", value) if isinstance(value, str) else None
        if found is None or 0 < int(found[1]) > int(found[2]):
            raise ValueError("must be N:M with N no larger than M, like '2:4'; '0:0' is an unstructured mask")
        return int(found[1]), int(found[2])

    @field_validator("targets")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        # sgpt_base.py iterates over it without wrapping a single text, so it would try each letter
        if not isinstance(value, list) or not all(isinstance(target, str) for target in value):
            raise ValueError("must be a list here, like [Linear]: SparseGPTModifier takes a text for its letters")
        return value

    @model_validator(mode="after")
    def _owl_is_whole(self) -> "SparseGPTFields":
        if self.sparsity_profile is not None and self.sparsity_profile.lower() != "owl":
            raise ValueError("sparsity_profile can only be owl")
        if len({value is None for value in (self.sparsity_profile, self.owl_m, self.owl_lmbda)}) > 1:
            raise ValueError("sparsity_profile: owl, owl_m and owl_lmbda go together")
        return self


def load_recipe(text: str | Path) -> Recipe:
    """The recipe that a shipped name (`gptq_w4a16`), a path, or recipe text of several lines stands for.

    Raises RecipeError where LLM Compressor would refuse it, UnsupportedError where planner cannot follow.
    """
    name, data = read_recipe(str(text))
    return recipe_from_dict(data, name)


def recipe_from_dict(data: dict[str, Any], name: str) -> Recipe:
    """The records for a recipe that is already a mapping; `name` is how errors and plans call it."""
    notes: list[str] = []
    specs: list[ModifierSpec] = []
    if not isinstance(data.get("args", {}), dict):
        raise RecipeError("must be a mapping", f"{name}: args")
    for entry in _entries(data, name, notes):
        specs.append(_spec(entry, specs, notes))
    if not specs:
        raise RecipeError(f"holds no modifier; {'; '.join([*notes[:2], _SHAPE])}", name)
    return Recipe(name=name, modifiers=tuple(specs), notes=tuple(f"{name}: {note}" for note in notes))


def _entries(data: dict[str, Any], name: str, notes: list[str]) -> Iterator[Entry]:
    """Every modifier of every stage in the order of the file; what upstream passes over goes to the notes."""
    for stage, groups in _mappings(data, "_stage", "", name, notes):
        for group, modifiers in _mappings(groups, "_modifiers", f"{stage}.", name, notes):
            for kind, fields in _items(modifiers, f"{name}: {stage}.{group}"):
                yield f"{name}: {stage}.{group}.{shorten(kind)}", kind, fields


def _mappings(
    data: dict[str, Any], suffix: str, path: str, name: str, notes: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in _items(data, f"{name}: {path}".rstrip(": .")):
        if key.endswith(suffix) and isinstance(value, dict):
            yield shorten(key), value
        elif key.endswith(suffix):
            notes.append(f"{path}{shorten(key)} is not heeded: it is not a mapping")
        elif (path, key) != ("", "args"):
            notes.append(f"{path}{shorten(key)} is not heeded: LLM Compressor reads keys that end in {suffix}")


def _items(data: dict[Any, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if not isinstance(key, str):
            raise RecipeError(f"the key {shorten(str(key))} must be a text", where)
        yield key, value


def _spec(entry: Entry, before: list[ModifierSpec], notes: list[str]) -> ModifierSpec:
    where, kind, fields = entry
    builder = _BUILDERS.get(kind)
    if builder is None:
        raise _not_a_builder(where, kind)
    if fields is None:
        raise RecipeError("has no fields; LLM Compressor fails on an empty entry, {} stands for none", where)
    spec = builder(fields, where, notes)
    if isinstance(spec, GPTQSpec) and not any(group.weights for group in spec.groups):
        raise _gptq_without_weights(where, before)
    return spec


def _not_a_builder(where: str, kind: str) -> RecipeError | UnsupportedError:
    modelled = ", ".join(_BUILDERS)
    if kind in NOT_MODELLED:
        return UnsupportedError(f"{where}: planner does not model {kind} yet; it models {modelled}")
    hint = did_you_mean(kind, (*_BUILDERS, *NOT_MODELLED)) or ";"
    return RecipeError(f"LLM Compressor has no such modifier{hint} planner models {modelled}", where)


def _gptq_without_weights(where: str, before: list[ModifierSpec]) -> RecipeError | UnsupportedError:
    """gptq/base.py `on_calibration_start` takes schemes that an earlier modifier left on the modules."""
    if any(isinstance(spec, QuantizationSpec) for spec in before):
        return UnsupportedError(f"{where}: planner does not model GPTQ over an earlier modifier's scheme; give scheme")
    return RecipeError("quantizes no weights, so GPTQ has nothing to do; give scheme or config_groups", where)


def _quantization(data: Any, where: str, notes: list[str]) -> QuantizationSpec:
    fields = validated(QuantizationFields, data, where)
    if not fields.has_config:
        raise RecipeError("says not what to quantize; give scheme (like W4A16) or config_groups", where)
    spec = QuantizationSpec(**_shared(fields, where, notes), calibrate_anyway=fields.requires_calibration_data)
    if fields.scheme is None and not fields.config_groups and fields.kv_cache_scheme is None:
        notes.append(f"{_inner(where)} quantizes nothing: it has neither scheme nor config_groups")
    return spec


def _gptq(data: Any, where: str, notes: list[str]) -> GPTQSpec:
    fields = validated(GPTQFields, data, where)
    _must_calibrate(fields, where)
    shared = _shared(fields, where, notes)
    given = "actorder" in fields.model_fields_set
    shared["groups"] = tuple(_ordered(group, fields.actorder, given, where) for group in shared["groups"])
    return GPTQSpec(
        **shared,
        block_size=fields.block_size,
        dampening_frac=fields.dampening_frac,
        batched_quantization=fields.batched_quantization,
    )


def _sparsegpt(data: Any, where: str, _notes: list[str]) -> SparseGPTSpec:
    fields = validated(SparseGPTFields, data, where)
    _must_calibrate(fields, where)
    if fields.sparsity_profile is not None or isinstance(fields.sparsity, list):
        raise UnsupportedError(f"{where}: planner models one sparsity for all layers, no list and no owl profile")
    prune_n, prune_m = fields.mask_structure
    if prune_n == 0 and fields.sparsity == 1:
        raise RecipeError("1 would prune every weight; LLM Compressor fails on it", f"{where}.sparsity")
    _check_patterns(fields.targets, f"{where}.targets")
    _check_patterns(fields.ignore, f"{where}.ignore", may_be_empty=True)
    return SparseGPTSpec(
        where=where,
        sparsity=fields.sparsity,
        prune_n=prune_n,
        prune_m=prune_m,
        block_size=fields.block_size,
        dampening_frac=fields.dampening_frac,
        preserve_sparsity_mask=fields.preserve_sparsity_mask,
        offload_hessians=fields.offload_hessians,
        targets=tuple(fields.targets),
        ignore=tuple(fields.ignore),
    )


_BUILDERS: dict[str, Callable[[Any, str, list[str]], ModifierSpec]] = {
    "QuantizationModifier": _quantization,
    "GPTQModifier": _gptq,
    "SparseGPTModifier": _sparsegpt,
}


def _shared(fields: QuantizationFields, where: str, notes: list[str]) -> dict[str, Any]:
    """What QuantizationModifier and GPTQModifier have in common (QuantizationMixin)."""
    groups = resolve_groups(fields, where)
    for group in groups:
        _check_patterns(group.targets, f"{group.where}.targets")
    _check_patterns(fields.ignore, f"{where}.ignore", may_be_empty=True)
    if "targets" in fields.model_fields_set and (fields.config_groups or isinstance(fields.scheme, dict)):
        unread = [target for target in fields.targets if not any(target in group.targets for group in groups)]
        if unread:
            notes.append(f"{_inner(where)}.targets is not heeded ({few(unread)}): its groups name their own")
    return {
        "where": where,
        "groups": groups,
        "ignore": tuple(fields.ignore),
        "kv_cache": resolve_kv_cache(fields.kv_cache_scheme, f"{where}.kv_cache_scheme"),
        "bypass_divisibility_checks": fields.bypass_divisibility_checks,
    }


def _ordered(group: Scheme, actorder: Any, given: bool, where: str) -> Scheme:
    """gptq/base.py `resolve_actorder`: unset means static unless the group says otherwise; given must not conflict."""
    weights = group.weights
    if weights is None or weights.strategy not in _ORDERED:
        return group
    if weights.dynamic is True:
        raise RecipeError("GPTQ needs fixed weight scales; the library fails on it", f"{group.where}.weights.dynamic")
    if given and weights.actorder is not None and actorder != weights.actorder:
        theirs = f"{group.where}.weights.actorder".removeprefix(f"{where}.")
        raise RecipeError(f"{actorder} contradicts {weights.actorder} in {theirs}; leave one out", f"{where}.actorder")
    order = actorder if given else weights.actorder or "static"
    return replace(group, weights=replace(weights, actorder=order))


def _must_calibrate(fields: ModifierFields, where: str) -> None:
    if "requires_calibration_data" in fields.model_fields_set and not fields.requires_calibration_data:
        raise UnsupportedError(f"{where}: planner models this modifier with calibration data only")


def _check_patterns(patterns: Iterable[str], where: str, may_be_empty: bool = False) -> None:
    """compressed-tensors compiles `re:` patterns only when it matches, deep in the run."""
    empty = True
    for pattern in patterns:
        empty = False
        try:
            re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
        except (re.error, RecursionError, OverflowError) as error:
            raise RecipeError(f"{shorten(pattern)} is not a regular expression: {error}", where) from error
    if empty and not may_be_empty:
        raise RecipeError("is empty, so no module would be compressed", where)


def _inner(where: str) -> str:
    return where.partition(": ")[2]
