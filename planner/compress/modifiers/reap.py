"""REAPPruningModifier: whole experts of a mixture go, those whose outputs count least (modifiers/pruning/reap/).

While calibrating it keeps the norm of every expert's output for one batch, and two fp64 sums for each layer. At the
epoch's end the layer loses experts and its router the rows for them. They stay in memory until the subgraph ends,
because what is onloaded is kept until then.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from pydantic import Field

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.errors import RecipeError, UnsupportedError
from planner.hints import few
from planner.models.traces import Call
from planner.notes import Note
from planner.recipe.specs import ModelTraits, ModifierSpec, ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import ModifierFields, must_calibrate, validated
from planner.timeline import Handle
from planner.units import FP32, FP64, INT64
from planner.upstream import REAP_EXPERTS_ATTRS, REAP_ROUTER_ATTRS

_EXPERT = re.compile(r"\.experts\.(\d+)(\.|$)")


class REAPFields(ModifierFields):
    """Fields of REAPPruningModifier (modifiers/pruning/reap/base.py)."""

    sparsity: float = Field(gt=0, lt=1)
    ignore: list[str] = Field(default_factory=list)
    report_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class REAPSpec(ModifierSpec):
    """REAPPruningModifier."""

    type: ClassVar[str] = "REAPPruningModifier"
    sparsity: float
    ignore: tuple[str, ...] = ()
    report_path: str | None = None
    facts: ModelTraits = field(default_factory=ModelTraits)
    """Of the model that it prunes."""
    whole: frozenset[str] = frozenset()
    """That model's layers that keep all experts."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses a report that is no JSON file, and patterns that are no regular expressions."""
        entry = validated(REAPFields, fields, where)
        must_calibrate(entry, where)
        if entry.report_path is not None and not entry.report_path.endswith(".json"):
            raise RecipeError("must end with .json", f"{where}.report_path")
        for pattern in entry.ignore:
            try:
                re.compile(pattern)
            except re.error as error:
                message = f"{pattern} is not a regular expression ({error}); they are searched for, without re:"
                raise RecipeError(message, f"{where}.ignore") from error
        return cls(where=where, sparsity=entry.sparsity, ignore=tuple(entry.ignore), report_path=entry.report_path)

    @property
    def rewrites_weights(self) -> bool:
        """Experts are left as they are, or left out."""
        return False

    @property
    def dropped(self) -> int:
        """Experts that each layer loses: base.py `on_initialize`, the same number of every group of experts."""
        dropped, groups = int(self.facts.experts * self.sparsity), self.facts.expert_groups
        return dropped if groups is None else round(dropped / groups) * groups

    def experts_left(self, facts: ModelTraits) -> int | None:
        """base.py `on_finalize` writes it into the config."""
        return facts.experts - replace(self, facts=facts).dropped if facts.experts else None

    def within(self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]) -> Self:
        """Refuses what base.py `on_initialize` and utils.py `get_moe_attrs` refuse."""
        spec = replace(self, facts=facts, whole=frozenset(self.whole_layers(modules)))
        if not facts.experts or not facts.experts_per_token:
            raise RecipeError(
                "finds no mixture of experts in this model: its config names no number of them", self.where
            )
        if not spec.dropped:
            raise RecipeError(f"{self.sparsity} of {facts.experts} experts is less than one", f"{self.where}.sparsity")
        left = facts.experts - spec.dropped
        groups, chosen = facts.expert_groups, facts.groups_per_token
        reachable = left if groups is None or chosen is None else chosen * left // groups
        if facts.experts_per_token > reachable:
            raise RecipeError(
                f"leaves {reachable} experts within reach of a token, and the router selects {facts.experts_per_token}",
                f"{self.where}.sparsity",
            )
        return spec

    def removes(self, name: str) -> bool:
        """Whether no module of this name is left: experts are numbered anew (utils.py `prune_moe_layer`)."""
        match = _EXPERT.search(name)
        if match is None or name[: match.start()] in self.whole:
            return False
        return int(match[1]) >= (self.experts_left(self.facts) or 0)

    def whole_layers(self, modules: Sequence[ModuleRef]) -> tuple[str, ...]:
        """Ignored ones, and those of another build than those that it prunes."""
        layers = dict(self._layers(modules, linear=False))
        mixed = any(layers.values())
        return tuple(name for name, linear in layers.items() if self._is_ignored(name) or (mixed and not linear))

    def check_result(self, modules: Sequence[ModuleRef]) -> None:
        """utils.py `update_model_config` counts as many experts for every layer."""
        if whole := self.whole_layers(modules):
            raise UnsupportedError(
                f"{self.where}: {few(whole)} keeps all experts, and the saved config.json counts fewer for every "
                "layer, so the result is not sized; without ignore, all layers are alike"
            )

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """All in a layer's experts, and its router: it changes no weight of theirs."""
        layers = {f"{layer}." for layer, _ in self._layers(modules) if not self._is_ignored(layer)}
        routers = {f"{layer}{attribute}" for layer in layers for attribute in REAP_ROUTER_ATTRS}
        watched = {ref.name for ref in modules if ref.name in routers or self._layer_of(ref.name) in layers}
        return Selection(weights={}, watched=frozenset(watched))

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """utils.py `get_moe_attrs`: layers of another build are left alone; without any other it refuses."""
        alien = [layer for layer, is_linear in self._layers(modules, linear=False) if not is_linear]
        if not selection.watched:
            raise RecipeError("finds no layer with experts and a router that it can prune", self.where)
        if alien:
            text = f"{self.where} leaves {few(alien)} alone: its experts get no choice of the router's"
            yield Note(kind="recipe", text=text)

    def model(self, context: Context) -> "REAPModel":
        """Norms, sums, and the smaller routers."""
        return REAPModel(context, self)

    def _is_ignored(self, layer: str) -> bool:
        return any(re.search(pattern, layer) for pattern in self.ignore)

    def _layers(self, modules: Sequence[ModuleRef], *, linear: bool = True) -> Iterator[tuple[str, bool]]:
        """Modules with experts and a router, and whether the experts are LinearExperts2D but for Llama 4's."""
        names = {ref.name for ref in modules}
        for ref in modules:
            layer, _, attribute = ref.name.rpartition(".")
            has_router = any(f"{layer}.{router}" in names for router in REAP_ROUTER_ATTRS)
            if attribute in REAP_EXPERTS_ATTRS and has_router:
                is_linear = "LinearExperts2D" in ref.classes and "Llama4LinearExperts" not in ref.classes
                if is_linear or not linear:
                    yield layer, is_linear

    def _layer_of(self, name: str) -> str:
        """The layer of experts, or of a module in them, with a dot; empty for any other module."""
        for attribute in REAP_EXPERTS_ATTRS:
            layer, found, _ = f"{name}.".partition(f".{attribute}.")
            if found:
                return f"{layer}."
        return ""


class REAPModel(ModifierModel):
    """One batch's norms of a layer, its sums, and what is left of its router."""

    def __init__(self, context: Context, spec: REAPSpec) -> None:
        super().__init__(context)
        self.spec = spec
        self._experts: dict[str, list[LinearModule]] = {}
        """Linears in each layer's experts, by the layer."""
        self._routers: dict[str, LinearModule] = {}
        self._norms: dict[str, list[Handle]] = {}
        self._sums: dict[str, list[Handle]] = {}

    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        """base.py: hooks on every expert, and on what holds them."""
        for module in modules:
            layer, found, _ = module.name.partition(".experts.")
            if found and module.itemsize:
                self._experts.setdefault(layer, []).append(module)
            elif not found and module.itemsize:
                self._routers[module.name.rpartition(".")[0]] = module

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """base.py `_expert_hook` of an expert, `_experts_block_hook` of all."""
        layer, found, rest = module.name.partition(".experts.")
        if found and rest.isdigit():
            self._keep_norms(layer, module.name, call)
        elif module.name.endswith(".experts"):
            self._add_up(module.name.removesuffix(".experts"), call)

    def _keep_norms(self, layer: str, name: str, call: Call) -> None:
        """torch.linalg.norm(output.float(), dim=-1), kept until the layer's block is over."""
        rows = call.rows
        with self.context.frame("compress", Owner(name, "norms")) as frame:
            nbytes = rows * call.output[-1] * FP32
            if call.output_itemsize != FP32:
                frame.assign("output.float()", nbytes)
            frame.assign("norms", rows * FP32)
            self._norms.setdefault(layer, []).append(frame.hand_over("norms"))

    def _add_up(self, layer: str, call: Call) -> None:
        """utils.py REAPSaliencyTracker.update; the norms go when it is over."""
        experts, chosen = self.spec.facts.experts, call.arguments[1]
        owner = Owner(layer, "saliency")
        if layer not in self._sums:
            self._sums[layer] = [self.context.take(experts * FP64, "compress", owner) for _ in range(2)]
        entries = chosen.bytes // INT64
        with self.context.frame("compress", owner) as frame:
            if self.context.job.calibrate_all_experts:
                frame.assign("stacked_norms", sum(map(self.context.ledger.size, self._norms.get(layer, []))))
                frame.assign("gathered_norms", entries * FP32)
                with frame.during(entries * FP64, "weights in fp64"), frame.during(entries * FP64, "norms in fp64"):
                    frame.assign("contrib", entries * FP64)
            else:
                frame.assign("flat_idx", entries * INT64)
                with frame.during(call.arguments[2].bytes, "weights by slot"):
                    frame.assign("flat_weights", entries * FP64)
                frame.assign("flat_norms", entries * FP64)
                frame.assign("mask", entries)
                frame.assign("contrib", entries * FP64)
            frame.temporary(entries * FP64, "ones")
        self.context.ledger.free_all(self._norms.pop(layer, ()))

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """base.py: layers whose saliency is complete lose experts."""
        for layer in sorted(self._sums):
            self._prune(layer)
            self.context.ledger.free_all(self._sums.pop(layer))

    def _prune(self, layer: str) -> None:
        """utils.py `prune_moe_layer`, `_prune_router`: the new router is offloaded as it is assigned."""
        context, router, facts = self.context, self._routers[layer], self.spec.facts
        dropped = self.spec.dropped
        kept = facts.experts - dropped
        nbytes = router.weight_bytes // router.rows * kept
        owner = Owner(router.name, "of the experts that are left")
        with context.accessed(f"{router.name}.weight", router.weight_bytes), context.frame("compress", owner) as frame:
            frame.assign("retained", kept * INT64)
            frame.assign("new_weight", nbytes)
            gone = self._bytes_of_experts(layer) * dropped // facts.experts
            context.replace_weight(f"{router.name}.weight", nbytes, old=router.weight_bytes, dropped=gone)

    def _bytes_of_experts(self, layer: str) -> int:
        return sum(module.weight_bytes for module in self._experts[layer])

    def on_calibration_end(self) -> None:
        """base.py: hooks are removed; what a layer kept that no epoch ended for goes with the modifier."""
        for handles in (*self._norms.values(), *self._sums.values()):
            self.context.ledger.free_all(handles)
        self._norms.clear()
        self._sums.clear()
