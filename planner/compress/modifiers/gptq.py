"""GPTQModifier: llmcompressor/modifiers/gptq/{base,helpers,gptq_quantize}.py, 0.14.0.1.

One Hessian per module while calibrating. At the epoch's end modules of equal shape are stacked
into batches; a batch is dampened, factorized and quantized in place (gptq_batch.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from planner.compress.context import Context
from planner.compress.modifiers.gptq_batch import Batch
from planner.compress.modifiers.hessian import Hessians
from planner.compress.modifiers.mixin import (
    QuantizationMixinSpec,
    attention_notes,
    check_schemes,
    shared_fields,
    target_notes,
    unset,
)
from planner.compress.modifiers.rtn import QuantizationModel
from planner.compress.observers import siblings_of
from planner.compress.qparams import QParams
from planner.compress.ranks import dealt
from planner.errors import RecipeError
from planner.hints import few
from planner.models.traces import Call
from planner.notes import Note
from planner.recipe.qparams import weight_qparam_bytes
from planner.recipe.schemes import QuantizationFields
from planner.recipe.specs import HiddenModule, ModifierSpec, ModuleRef, Scheme, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import must_calibrate, validated
from planner.units import FP32
from planner.upstream import GPTQ_AUTO_SHARE_PERCENT

# Strategies that gptq/base.py `resolve_actorder` runs for; no other one suits a Linear's weights.
_ORDERED = ("group", "tensor_group", "channel", "tensor", "block")


class GPTQFields(QuantizationFields):
    """Fields of GPTQModifier (modifiers/gptq/base.py)."""

    block_size: int = Field(default=128, ge=1)
    dampening_frac: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    actorder: Any = None
    batched_quantization: Any = "auto"

    @field_validator("actorder")
    @classmethod
    def _known_order(cls, value: Any) -> Any:
        # gptq/helpers.py `apply_activation_ordering` raises for any other word, after hours of calibration
        if value not in ("static", "weight", None):
            raise ValueError("must be static, weight or null (no reordering)")
        return value

    @field_validator("batched_quantization")
    @classmethod
    def _auto_or_count(cls, value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not (is_count or value in ("auto", None)):
            raise ValueError("must be auto, a positive number, or null (no batching)")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQSpec(QuantizationMixinSpec):
    """GPTQModifier. Its actorder is already resolved into each group's weights."""

    type: ClassVar[str] = "GPTQModifier"
    block_size: int = 128
    dampening_frac: float | None = 0.01
    batched_quantization: Literal["auto"] | int | None = "auto"

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses an entry that would order the columns in two ways."""
        entry = validated(GPTQFields, fields, where)
        must_calibrate(entry, where)
        shared = shared_fields(entry, where)
        is_set = "actorder" in entry.model_fields_set
        shared["groups"] = tuple(_with_actorder(group, entry.actorder, is_set, where) for group in shared["groups"])
        return cls(
            **shared,
            block_size=entry.block_size,
            dampening_frac=entry.dampening_frac,
            batched_quantization=entry.batched_quantization,
        )

    @property
    def requires_calibration_data(self) -> bool:
        """GPTQModifier.requires_calibration_data."""
        return True

    @property
    def keeps_modules(self) -> bool:
        """gptq/base.py `_module_names`."""
        return True

    @property
    def has_hessians(self) -> bool:
        """One for each module."""
        return True

    def follow(self, earlier: Sequence[ModifierSpec]) -> None:
        """gptq/base.py `on_calibration_start` takes schemes that an earlier modifier left on the modules.

        With targets or ignores of its own and no scheme it would attach an empty one over them, and find nothing.
        """
        if any(group.weights for group in self.groups):
            return
        follows = any(isinstance(spec, QuantizationMixinSpec) and spec.quantizes_weights for spec in earlier)
        if follows and not self.has_config:
            return
        if follows:
            raise RecipeError(
                "replaces the earlier modifier's scheme by an empty one, so GPTQ finds nothing to quantize; "
                "leave out targets, ignore and kv_cache_scheme, and it takes that scheme, or give scheme here",
                self.where,
            )
        raise RecipeError("quantizes no weights, so GPTQ has nothing to do; give scheme or config_groups", self.where)

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """gptq/base.py `on_calibration_start` raises when it hooks nothing; embeddings are not hooked."""
        yield from target_notes(self, modules, selection)
        yield from attention_notes(self, selection)
        schemes = selection.weights
        linears = (schemes.get(ref.name) for ref in modules if "Embedding" not in ref.classes)
        if not any(scheme is not None and scheme.weights is not None for scheme in linears):
            raise RecipeError(
                "finds nothing to quantize in this model: no Linear is both targeted and not ignored", self.where
            )
        check_schemes(self, modules, selection)

    def without_data(self) -> Iterable[Note]:
        """base.py `compress_modules` knows the modules that had samples alone, and `on_finalize` finds none left."""
        yield unset("GPTQModifier quantizes nothing, and the scales of its weights are never set")

    def hidden(self, modules: Sequence[HiddenModule]) -> Iterable[Note]:
        """gptq/base.py `compress_modules` finds no statistics for a Linear that is hooked and never observed."""
        hooked = [module.name for module in modules if module.runs and not module.is_embedding]
        if hooked:
            raise RecipeError(
                f"targets {few(hooked)}, which LLM Compressor calls inside a wrapped function: it hooks them, never "
                "observes their weights, and stops with 'No statistics available'; add them to ignore, "
                f"e.g. {_ignore_for(hooked[0])}",
                self.where,
            )
        return QuantizationMixinSpec.hidden(self, modules)

    def model(self, context: Context) -> "GPTQModel":
        """Hessians, and batches of them at the epoch's end."""
        return GPTQModel(context, self)


def _with_actorder(group: Scheme, actorder: Any, is_set: bool, where: str) -> Scheme:
    """gptq/base.py `resolve_actorder`: unset, each group's own counts, or static; set, no group may name another."""
    weights = group.weights
    if weights is None or weights.strategy not in _ORDERED:
        return group
    if weights.dynamic is True:
        raise RecipeError("GPTQ needs fixed weight scales; the library fails on it", f"{group.where}.weights.dynamic")
    if is_set and weights.actorder is not None and actorder != weights.actorder:
        group_path = f"{group.where}.weights.actorder".removeprefix(f"{where}.")
        raise RecipeError(
            f"{actorder} contradicts {weights.actorder} in {group_path}; leave one out", f"{where}.actorder"
        )
    order = actorder if is_set else weights.actorder or "static"
    return replace(group, weights=replace(weights, actorder=order))


def _ignore_for(name: str) -> str:
    """An ignore pattern for the part of the model that `name` lies in."""
    parts = name.split(".")
    tower = next((part for part in parts if "vis" in part or "tower" in part or "proj" in part), parts[-1])
    return f"re:.*{tower}.*"


class GPTQModel(QuantizationModel):
    """Hessians while calibrating, batched quantization at the epoch's end."""

    def __init__(self, context: Context, spec: GPTQSpec) -> None:
        super().__init__(context)
        self.spec, self.block_size = spec, spec.block_size
        # num_samples is a 0-dim fp32 tensor on the device (base.py calibrate_module)
        self.hessians = Hessians(context, counter_bytes=FP32)
        self._observed: frozenset[str] = frozenset()

    def after_forward(self, module: LinearModule, call: Call) -> None:
        super().after_forward(module, call)
        # base.py on_calibration_start leaves embeddings out
        if not module.embedding and module.scheme is not None and module.scheme.weights is not None:
            self.hessians.accumulate(module, call)

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """base.py: observe weights, activation qparams, compress_modules."""
        observed = [m for m in modules if m.observed]
        self._observed = self.observe_weights(observed)
        self._finish_inputs(modules)
        everything = own = list(self.hessians.modules.values())
        rank = self.context.rank
        if rank is not None:
            everything, shares = dealt(everything, rank.of, lambda module: module.columns)
            own = shares[rank.number]
            self._reduce(everything, own)
        with self.context.frame("compress", "compress_module_list") as frame:
            for batch in self._batches(own):
                Batch(self, frame, batch).run()
        if rank is not None:
            self._broadcast(everything)

    # ------------------------------------------------------------------ ranks
    def _reduce(self, everything: Sequence[LinearModule], own: Sequence[LinearModule]) -> None:
        """base.py _reduce_hessian_to_target_rank: in place; the others' Hessians go when all are on their way."""
        kept = {module.name for module in own}
        for module in everything:
            if module.name not in kept:
                counter = self.hessians.pop_counter(module.name)
                self.context.ledger.free_all([self.hessians.pop(module.name), *([] if counter is None else [counter])])

    def _broadcast(self, modules: Sequence[LinearModule]) -> None:
        """utils/dist.py broadcast_qparams_and_cleanup: what every rank has onloaded takes the owner's values."""
        for module in modules:
            self.context.onload(f"{module.name}.weight", module.weight_bytes)
            sizes = weight_qparam_bytes(module)
            for name in ("scale", "zero_point"):
                self.context.onload(f"{module.name}.weight_{name}", sizes[name], "qparams")
        self.observers.forget(module.name for module in modules)

    # ------------------------------------------------------------------ batches
    def _batches(self, modules: list[LinearModule]) -> list[list[LinearModule]]:
        """helpers.py assign_batches: equal shape and scheme over the whole subgraph, then capped."""
        if self.spec.batched_quantization is None:
            return [[module] for module in modules]
        groups: dict[tuple[object, ...], list[LinearModule]] = {}
        for module in modules:
            weights = module.scheme.weights if module.scheme else None
            groups.setdefault((module.rows, module.columns, module.itemsize, weights), []).append(module)
        batches = []
        for members in groups.values():
            size = self._max_batch(members[0], len(members))
            batches += [members[i : i + size] for i in range(0, len(members), size)]
        return batches

    def _max_batch(self, module: LinearModule, wanted: int) -> int:
        """helpers.py max_batch_size. It does not count the copies inside cholesky_inverse."""
        if isinstance(self.spec.batched_quantization, int):
            return self.spec.batched_quantization
        if self.context.device == "cpu":
            return 1
        weight, hessian = module.rows * module.columns, module.columns**2
        quantization = hessian + 3 * weight + 4 * module.rows * self.spec.block_size
        ordering = 3 * hessian + 2 * weight
        needed = max(quantization, ordering) * FP32
        return self.context.ledger.ask("gpu", needed, GPTQ_AUTO_SHARE_PERCENT, wanted)

    def weight_qparams(self, module: LinearModule) -> QParams:
        """The module's scales and zero points; its statistics are freed."""
        return self.observers.qparams(module, siblings_of(module.name, self._observed))
