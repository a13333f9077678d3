"""AWQModifier: llmcompressor/modifiers/transform/awq/{base,mappings,dynamic_mappings}.py, 0.14.0.1.

It scales the columns of weights so that rounding them hurts less, and quantizes nothing itself: the schemes are those
of the quantizing modifiers of the recipe. What a mapping names is resolved here, as the library resolves it; what
calibrating and the search take is in awq_model.py and awq_search.py.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, field_validator

from planner.compress.context import Context
from planner.compress.modifiers.awq_loss_mask import misfits
from planner.compress.modifiers.awq_model import AwqModel
from planner.compress.modifiers.awq_search import AwqSmoothing
from planner.compress.modifiers.mixin import QuantizationMixinSpec
from planner.errors import RecipeError, UnsupportedError
from planner.hints import few
from planner.notes import Note
from planner.recipe.awq_mappings import AwqMapping, inferred_mappings
from planner.recipe.module_sets import ModuleSet, ModuleSetError, common_ancestor, module_sets
from planner.recipe.specs import ModelTraits, ModifierSpec, ModuleRef, Scheme, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import ModifierFields, check_patterns, must_calibrate, validated

QUANTIZING = ("scheme", "targets", "ignore", "config_groups", "kv_cache_scheme")
"""Fields that AWQModifier had before 0.14, and that belong to the modifier after it now."""

Duo = bool | Literal["both"]


class AwqMappingFields(BaseModel):
    """mappings.py AWQMapping."""

    smooth_layer: str
    balance_layers: list[str]
    activation_hook_target: str | None = None


class AwqFields(ModifierFields):
    """Fields of AWQModifier (transform/awq/base.py)."""

    mappings: list[AwqMappingFields] | None = None
    offload_device: str | None = "not_provided"
    duo_scaling: Any = True
    n_grid: int = Field(default=20)

    @field_validator("duo_scaling")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value not in (True, False, "both"):
            raise ValueError("must be true, false or both")
        return value if value == "both" else bool(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqSpec(ModifierSpec):
    """AWQModifier, and once it met a model, what it smooths there."""

    type: ClassVar[str] = "AWQModifier"
    mappings: tuple[AwqMapping, ...] | None = None
    """None: inferred from the model."""
    offload_device: str | None = "not_provided"
    """Where the parents' arguments wait; not_provided: on the CPU for a mixture of experts, else where they are."""
    duo_scaling: Duo = True
    n_grid: int = 20
    smoothings: tuple[AwqSmoothing, ...] = ()
    """base.py `_set_resolved_mappings`, in its order."""
    rotated: frozenset[str] = frozenset()
    """Linears whose inputs another modifier rotates in every call."""
    idle: tuple[str, ...] = ()
    """Layers that a mapping names and nothing quantizes."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses the fields of older releases with a word on what took their place."""
        old = [name for name in QUANTIZING if isinstance(fields, dict) and name in fields]
        if old:
            message = "no field of AWQModifier since LLM Compressor 0.14; give it to a QuantizationModifier after it"
            raise RecipeError(message, f"{where}.{old[0]}")
        entry = validated(AwqFields, fields, where)
        if "requires_calibration_data" in entry.model_fields_set:
            must_calibrate(entry, where)
        _check_device(entry.offload_device, f"{where}.offload_device")
        _check_grid(entry.duo_scaling, entry.n_grid, f"{where}.n_grid")
        for number, mapping in enumerate(entry.mappings or ()):
            check_patterns((mapping.smooth_layer, *mapping.balance_layers), f"{where}.mappings[{number}]")
        mappings = None if entry.mappings is None else tuple(map(_mapping, entry.mappings))
        return cls(
            where=where,
            mappings=mappings,
            offload_device=entry.offload_device,
            duo_scaling=entry.duo_scaling,
            n_grid=entry.n_grid,
        )

    def within(self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]) -> Self:
        """base.py `on_initialize` and `_set_resolved_mappings`; recipe.py `validate_model_after`."""
        here = next((place for place, spec in enumerate(recipe) if spec is self), 0)
        if not any(isinstance(spec, QuantizationMixinSpec) for spec in recipe[here + 1 :]):
            message = (
                "needs a quantizing modifier after it, like QuantizationModifier: {scheme: W4A16, ignore: [lm_head]}"
            )
            raise RecipeError(message, self.where)
        schemes: dict[str, Scheme] = {}
        for spec in recipe:
            if isinstance(spec, QuantizationMixinSpec):
                chosen = spec.select(modules).weights
                schemes |= {name: scheme for name, scheme in chosen.items() if scheme is not None}
        inferred = inferred_mappings(facts.architecture, modules, facts.is_moe)
        resolved = _Resolved(modules, schemes, self.where)
        for mapping in inferred if self.mappings is None else self.mappings:
            resolved.add(mapping)
        default = "cpu" if facts.is_moe else None
        return replace(
            self,
            rotated=frozenset[str]().union(*(spec.hooked_inputs(facts, modules, recipe) for spec in recipe)),
            smoothings=tuple(resolved.smoothings),
            idle=tuple(resolved.idle),
            offload_device=default if self.offload_device == "not_provided" else self.offload_device,
        )

    @property
    def points(self) -> tuple[bool, ...]:
        """base.py `_get_grid_search_params`: for each point, whether the weights decide too (duo scaling)."""
        if self.duo_scaling == "both":
            return (False, True) * (self.n_grid // 2)
        return (False, *([True] * (self.n_grid - 1))) if self.duo_scaling else (False,) * self.n_grid

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """Every layer that it scales; it watches the parents of the balanced layers, and where it takes activations."""
        changed = {each.name for one in self.smoothings for each in (*one.balance, one.smooth)}
        watched = {name for one in self.smoothings for name in (one.parent, one.hook)}
        weights = {ref.name: None for ref in modules if ref.name in changed and ref.itemsize}
        return Selection(weights=weights, watched=frozenset(watched))

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """base.py `on_calibration_start` refuses duo scaling of weights with one scale; notes on what is left out."""
        for layer in (layer for one in self.smoothings for layer in one.quantized if self.duo_scaling):
            if layer.scheme and layer.scheme.weights and layer.scheme.weights.strategy == "tensor":
                message = f"is not for weights with one scale, as {layer.name} has; write duo_scaling: false"
                raise RecipeError(message, f"{self.where}.duo_scaling")
        if self.idle:
            text = f"{self.where} leaves {few(self.idle)} as it is: nothing quantizes the layers behind it"
            yield Note(kind="recipe", text=text)
        if not self.smoothings:
            yield Note(kind="recipe", text=f"{self.where} leaves this model as it is: its mappings match no layers")

    def failures(self, inputs: Iterable[tuple[str, int]]) -> Iterable[Note]:
        """base.py `_apply_smoothing` forgets a parent's arguments with its first mapping; a mean of nothing fails."""
        twice = [name for name, count in Counter(one.parent for one in self.smoothings).items() if count > 1]
        if twice:
            yield _fails(f"two of AWQ's mappings run {few(twice)} again, whose inputs are gone after the first.")
        rotated = [one.parent for one in self.smoothings if one.parent in self.rotated]
        if rotated:
            # base.py `_run_samples` calls module(**batch); compressed_tensors transform/factory/base.py `input_hook`
            text = (
                f"AWQ calls {few(rotated)} again with keyword arguments; the hook that rotates its input reads args[0]"
            )
            yield _fails(f"{text} (IndexError). Leave it out of the rotation or of AWQ's mappings.")
        empty = [one.smooth.name for one in self.smoothings if self.duo_scaling and not one.quantized]
        if empty:
            yield _fails(f"AWQ divides by zero: no layer behind {few(empty)} is quantized. Write duo_scaling: false.")

    def masked(self, outputs: Iterable[tuple[str, int, tuple[int, ...]]], samples: int, tokens: int) -> Iterable[Note]:
        """It looks at the marked tokens alone."""
        hooks = frozenset(one.hook for one in self.smoothings)
        parents = frozenset(one.parent for one in self.smoothings)
        return misfits(outputs, hooks, parents, samples, tokens)

    @property
    def keeps_arguments(self) -> bool:
        """base.py `cache_parent_kwargs_hook`."""
        return True

    def uncounted_in_basic(self) -> Iterable[Note]:
        """basic/pipeline.py sends sequential_epoch_end after it left DisableQuantization: Linears round their weights
        then, with scales that compressed_tensors initialize.py made by torch.empty and nothing has computed. Where they
        happen to be 0, outputs are NaN, and `_apply_smoothing` passes over the mapping. In the meter they are 0 on the
        CPU (3.69 GB measured, 3.97 planned); on the pretended GPU checks pass, and the plan is the measured one.
        """
        text = (
            "in the basic pipeline AWQ runs blocks whose weights are rounded by scales that nothing has computed yet: "
            "planned as if it searched everywhere, but it may find NaN, smooth nothing and take less; "
            "--pipeline sequential searches as it should"
        )
        yield Note(kind="estimate", text=f"{self.where}: {text}")

    def model(self, context: Context) -> AwqModel:
        """What it keeps for each batch, and its search."""
        return AwqModel(context, self.smoothings, self.points, offload=self.offload_device == "cpu")


class _Resolved:
    """base.py `_set_resolved_mappings` on one model."""

    def __init__(self, modules: Sequence[ModuleRef], schemes: Mapping[str, Scheme], where: str) -> None:
        self._modules, self._schemes, self._where = modules, schemes, where
        self._classes = {ref.name: ref.classes for ref in modules}
        self.smoothings: list[AwqSmoothing] = []
        self.idle: list[str] = []

    def add(self, mapping: AwqMapping) -> None:
        """All modules of the model that one mapping names, set by set."""
        where = f"{self._where}.mappings"
        for first, *others in self._sets(mapping, where):
            balance = [ref for group in others for ref in group]
            if len(first) > 1:
                names = few([ref.name for ref in first])
                message = f"{mapping.smooth_layer} names {names} for one group of layers; LLM Compressor takes one"
                raise RecipeError(message, where)
            if not all(_fit(first[0], ref) for ref in balance):
                continue
            if not balance or not any(ref.name in self._schemes for ref in (first[0], *balance)):
                self.idle.append(first[0].name)
                continue
            self.smoothings.append(self._smoothing(first[0], balance, mapping.activation_hook_target))

    def _sets(self, mapping: AwqMapping, where: str) -> Iterator[ModuleSet]:
        try:
            yield from module_sets((mapping.smooth_layer, *mapping.balance_layers), self._modules)
        except ModuleSetError as error:
            message = f"{error}; LLM Compressor refuses such a set, write mappings that fit this model"
            raise RecipeError(message, where) from error

    def _smoothing(self, smooth: ModuleRef, balance: Sequence[ModuleRef], target: str | None) -> AwqSmoothing:
        parent = self._parent([ref.name for ref in balance])
        hook = balance[0].name if target is None else f"{parent}.{target}".removeprefix(".")
        if hook not in self._classes:
            raise RecipeError(f"{target} is no part of {parent or 'the model'}", f"{self._where}.mappings")
        layers = tuple(self._layer(ref) for ref in balance)
        return AwqSmoothing(smooth=self._layer(smooth), balance=layers, parent=parent, hook=hook)

    def _parent(self, names: Sequence[str]) -> str:
        """base.py `get_lowest_common_ancestor_with_avoid`: nobody calls a ModuleList."""
        name = common_ancestor(names)
        while name and "ModuleList" in self._classes.get(name, ()):
            name = name.rpartition(".")[0]
        return name

    def _layer(self, ref: ModuleRef) -> LinearModule:
        scheme = self._schemes.get(ref.name)
        return LinearModule(name=ref.name, rows=ref.rows, columns=ref.columns, itemsize=ref.itemsize, scheme=scheme)


def _fit(smooth: ModuleRef, balance: ModuleRef) -> bool:
    """base.py `_check_layers_are_compatible`: an o_proj whose inputs are not the v_proj's outputs is left alone."""
    if not balance.name.endswith(".o_proj") or not ("Linear" in smooth.classes and "Linear" in balance.classes):
        return True
    if smooth.name.endswith(".v_proj"):
        return smooth.rows == balance.columns
    return not smooth.name.endswith(".qkv_proj") or smooth.rows == 3 * balance.columns


def _mapping(fields: AwqMappingFields) -> AwqMapping:
    return AwqMapping(fields.smooth_layer, tuple(fields.balance_layers), fields.activation_hook_target)


def _check_device(device: str | None, where: str) -> None:
    kind, _, number = (device or "cuda").partition(":")
    if kind not in ("cpu", "cuda", "not_provided"):
        raise RecipeError("must be cpu, cuda or null (where the tensors are)", where)
    if number not in ("", "0"):
        raise UnsupportedError(f"{where}: planner models cpu, cuda and null, not {device}")


def _check_grid(duo_scaling: Duo, n_grid: int, where: str) -> None:
    """base.py `_get_grid_search_params` divides by the points less one, and a search needs a point."""
    if duo_scaling == "both" and n_grid < 4:
        raise RecipeError("must be at least 4 with duo_scaling: both; LLM Compressor fails on less", where)
    if duo_scaling is False and n_grid < 2:
        raise RecipeError("must be at least 2; LLM Compressor fails on less", where)
    if duo_scaling is True and n_grid == 2:
        raise RecipeError("must not be 2 with duo_scaling: true; LLM Compressor divides by zero", where)


def _fails(text: str) -> Note:
    return Note(kind="fails", text=f"This job fails in LLM Compressor: {text}")
