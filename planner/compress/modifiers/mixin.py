"""What every quantizing modifier shares: llmcompressor/modifiers/quantization/quantization/mixin.py QuantizationMixin.

That is: the recipe's fields, which module gets which scheme, and what the library checks before it starts.
`planner.recipe.schemes` resolves the schemes themselves.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.compress.modifiers.targeted import kind_of, resolve, resolve_attention
from planner.compress.observers import siblings_of
from planner.errors import RecipeError
from planner.hints import few, shorten
from planner.notes import Note
from planner.recipe.matching import (
    Patterns,
    Target,
    ignore_notes,
    no_match_note,
    nothing_left,
    target_matches,
)
from planner.recipe.schemes import (
    QuantizationFields,
    needs_data,
    observes_activations,
    resolve_groups,
    resolve_kv_cache,
)
from planner.recipe.specs import HiddenModule, ModifierSpec, ModuleRef, QuantArgs, Scheme, Selection
from planner.recipe.validation import check_patterns


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationMixinSpec(ModifierSpec):
    """The fields of QuantizationMixin, resolved, and what it does with a model."""

    groups: tuple[Scheme, ...] = ()
    ignore: tuple[str, ...] = ()
    kv_cache: QuantArgs | None = None
    bypass_divisibility_checks: bool = False
    has_config: bool = True
    """False where the entry names no scheme, targets or ignores: then it attaches none, and takes what it finds."""

    @property
    def requires_calibration_data(self) -> bool:
        """mixin.py `_set_requires_calibration_data`: static activations, or a data-driven observer."""
        return calibrates(self)

    @property
    def quantizes_weights(self) -> bool:
        """Whether one of its groups has weights."""
        return any(group.weights for group in self.groups)

    @property
    def unties_embeddings(self) -> bool:
        """mixin.py `start_calibration`."""
        return True

    @property
    def shares_work(self) -> bool:
        """gptq/base.py `compress_modules`, quantization/base.py `on_sequential_epoch_end`."""
        return True

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """Each targeted Linear and Embedding with its config group.

        A group may be empty (the preset UNQUANTIZED, or no scheme at all): its modules are selected too,
        because LLM Compressor unties word embeddings when they are merely targeted.
        """
        return Selection(
            weights=resolve(self.groups, self.ignore, modules),
            attention=resolve_attention(self.groups, self.ignore, self.kv_cache, modules),
        )

    def attached(self, selection: Selection) -> Selection:
        """mixin.py `initialize_quantization`."""
        return selection if self.has_config else Selection(weights={})

    def find(self, selection: Selection, schemes: Selection) -> Selection:
        """mixin.py `start_calibration` takes whatever scheme is on the modules that this modifier targets."""
        weights = {name: schemes.weights[name] for name in selection.weights if name in schemes.weights}
        attention = {
            name: replace(schemes.attention[name], is_observed=own.is_observed)
            for name, own in selection.attention.items()
        }
        return replace(selection, weights=weights, attention=attention)

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """Targets that match nothing, groups that do not divide, fused siblings whose schemes differ."""
        yield from target_notes(self, modules, selection)
        yield from attention_notes(self, selection)
        check_schemes(self, modules, selection)

    def without_data(self) -> Iterable[Note]:
        """calibration.py `update_qparams` warns, and leaves scales of activations that nobody observed as they are."""
        if self.kv_cache is not None or any(map(observes_activations, self.groups)):
            yield unset(f"scales that {self.type} takes from activations are never set")
        else:
            yield from ModifierSpec.without_data(self)  # imatrix_mse: ranges by plain MSE

    def hidden(self, modules: Sequence[HiddenModule]) -> Iterable[Note]:
        """Hidden modules get scales that nobody computes.

        compressed-tensors quantization/lifecycle/initialize.py makes them by torch.empty. Seen with the real library in
        a tower of Qwen2-VL that no sample ran: -9.4e-37 after GPTQ, 0 after static rounding. Where the whole model is
        the sequential target, or in the basic pipeline, static rounding computes those of weights, and the tower's
        input scales are 3.5e-35 and 1.3e-21; GPTQ's are garbage all the same (Qwen2-Audio).
        """
        idle = [module.name for module in modules if not module.runs]
        if idle:
            yield _note(
                f"{self.type} targets {few(idle)}, which no sample of this job runs: their scales, or those of their "
                "activations, are never computed, and saved as whatever lay in memory. Add them to ignore."
            )
        run = [module.name for module in modules if module.runs]
        if run:
            yield _note(
                f"{self.type} targets {few(run)}, which LLM Compressor calls inside a wrapped "
                "function: their weight scales are never computed. Add them to ignore."
            )

    def targets(self) -> Iterator[Target]:
        """Each target with its path in the recipe."""
        yield from ((target, f"{group.where}.targets") for group in self.groups for target in group.targets)


def unset(what: str) -> Note:
    """The note on a job that ends without an error and leaves parameters as torch.empty made them (compressed-tensors
    quantization/lifecycle/initialize.py): seen with the real library, where such scales were 8.6e+17 and 0."""
    return Note(
        kind="fails",
        text=f"The datafree pipeline runs no forward: {what}. LLM Compressor ends without an error, and saves in them "
        "whatever lay in memory. Leave out --pipeline.",
    )


def calibrates(spec: QuantizationMixinSpec) -> bool:
    """Whether some range is taken from data: the cache's, an activation's, or a weight's by a data-driven observer."""
    return spec.kv_cache is not None or any(map(needs_data, spec.groups))


def shared_fields(fields: QuantizationFields, where: str) -> dict[str, Any]:
    """The fields of `QuantizationMixinSpec` as a recipe's entry has them."""
    groups = resolve_groups(fields, where)
    for group in groups:
        check_patterns(group.targets, f"{group.where}.targets")
    check_patterns(fields.ignore, f"{where}.ignore", may_be_empty=True)
    return {
        "where": where,
        "notes": tuple(_unread_targets(fields, groups, where)),
        "groups": groups,
        "ignore": tuple(fields.ignore),
        "kv_cache": resolve_kv_cache(fields.kv_cache_scheme, f"{where}.kv_cache_scheme"),
        "bypass_divisibility_checks": fields.bypass_divisibility_checks,
        "has_config": fields.has_config,
    }


def _unread_targets(fields: QuantizationFields, groups: Sequence[Scheme], where: str) -> Iterator[Note]:
    """A note on the modifier's own targets that no group repeats: the groups name their targets themselves."""
    if "targets" in fields.model_fields_set and (fields.config_groups or isinstance(fields.scheme, dict)):
        unread = [target for target in fields.targets if not any(target in group.targets for group in groups)]
        if unread:
            yield _note(f"{where}.targets is not heeded ({few(unread)}): its groups name their own")


# ---------------------------------------------------------------------- what the library checks
def target_notes(spec: QuantizationMixinSpec, modules: Sequence[ModuleRef], selection: Selection) -> Iterator[Note]:
    """Targets and ignores that do not do what they seem to; RecipeError for a target that matches nothing."""
    for target, matches in target_matches(spec.targets(), modules):
        if not matches:
            yield no_match_note(target, modules)
        elif not any(map(_takes_scheme, matches)):
            pattern, where = target
            example = few([ref.name or "the model itself" for ref in matches])
            yield _note(f"{where}: {shorten(pattern)} quantizes nothing: {example} holds no weight of its own")
    yield from ignore_notes(spec.ignore, f"{spec.where}.ignore", lambda: _candidates(spec, modules))
    if not selection.weights and not any(scheme.is_observed for scheme in selection.attention.values()):
        yield nothing_left(spec.where)


def attention_notes(spec: QuantizationMixinSpec, selection: Selection) -> Iterator[Note]:
    """Scales of attentions that nobody computes."""
    if any(scheme.queries and scheme.is_observed for scheme in selection.attention.values()):
        # llmcompressor utils/helpers.py use_eager_attention: the hooked attention function is not called
        yield _note(
            f"{spec.where}: scales of keys and values are calibrated, those of queries are not: LLM Compressor forces "
            "eager attention meanwhile, past the hook of the queries."
        )
    idle = [name for name, scheme in selection.attention.items() if not scheme.is_observed]
    if idle:
        yield _note(f"{spec.where}: {few(idle)} gets scales for its cache that nobody computes: it is not targeted")


def _takes_scheme(ref: ModuleRef) -> bool:
    return kind_of(ref.classes) == "weighted" or (kind_of(ref.classes) == "attention" and ref.takes_cache)


def _candidates(spec: QuantizationMixinSpec, modules: Sequence[ModuleRef]) -> list[ModuleRef]:
    """The modules that could be ignored: those that are targeted."""
    return Patterns(target for target, _ in spec.targets()).of([ref for ref in modules if _takes_scheme(ref)])


def check_schemes(spec: QuantizationMixinSpec, modules: Sequence[ModuleRef], selection: Selection) -> None:
    """Refuses schemes that do not fit the weights they are given to."""
    if not spec.bypass_divisibility_checks:
        _check_group_sizes(modules, selection.weights)
    if any(map(_has_global_scale, spec.groups)):
        _check_fused(modules, selection.weights, spec.where)


def _check_group_sizes(modules: Sequence[ModuleRef], schemes: Mapping[str, Scheme | None]) -> None:
    """Refuses what LLM Compressor refuses before it starts: groups that do not divide a weight's columns.

    llmcompressor/modifiers/quantization/group_size_validation.py `_layer_indivisible`. A weight narrower
    than one group passes there.
    """
    indivisible: dict[tuple[str, int, int], list[str]] = {}
    for ref in modules:
        scheme = schemes.get(ref.name)
        size = _strict_group_size(scheme)
        if scheme is not None and size is not None and ref.columns >= size and ref.columns % size:
            indivisible.setdefault((scheme.where, size, ref.columns), []).append(ref.name)
    if indivisible:
        where, size, _ = next(iter(indivisible))
        widths = [f"{width} ({few(names)})" for (group, _, width), names in indivisible.items() if group == where]
        advice = "add them to ignore, or take a group_size that divides"
        raise RecipeError(f"{size} does not divide {few(widths, 3)}; {advice}", f"{where}.weights.group_size")


def _strict_group_size(scheme: Scheme | None) -> int | None:
    weights = None if scheme is None else scheme.weights
    if weights is None or weights.strategy not in ("group", "tensor_group"):
        return None
    return weights.group_size


def _check_fused(modules: Sequence[ModuleRef], schemes: Mapping[str, Scheme | None], where: str) -> None:
    """observers/helpers.py `fuse_weight_observers`: fused siblings share a global scale, or none of them has one."""
    names = frozenset(ref.name for ref in modules if ref.itemsize)
    for name, scheme in schemes.items():
        if not _has_global_scale(scheme):
            continue
        without_global_scale = [
            sibling for sibling in siblings_of(name, names) if not _has_global_scale(schemes.get(sibling))
        ]
        if without_global_scale:
            raise RecipeError(
                f"{name} gets a scheme with a global scale and {without_global_scale[0]} does not; LLM Compressor "
                "refuses that, because served models fuse them: target both alike, or ignore both",
                where,
            )


def _has_global_scale(scheme: Scheme | None) -> bool:
    return scheme is not None and scheme.weights is not None and scheme.weights.strategy == "tensor_group"


def _note(text: str) -> Note:
    return Note(kind="recipe", text=text)
