"""What every quantizing modifier shares: llmcompressor/modifiers/quantization/quantization/mixin.py QuantizationMixin.

That is: the recipe's fields, which module gets which scheme, and what the library checks before it starts.
`planner.recipe.schemes` resolves the schemes themselves.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from planner.compress.observers import siblings_of
from planner.errors import RecipeError, UnsupportedError
from planner.hints import few, shorten
from planner.notes import Note
from planner.recipe.matching import (
    Patterns,
    Target,
    ignore_notes,
    is_narrow,
    is_weighted,
    matched,
    nothing_left,
    subtree,
)
from planner.recipe.schemes import QuantizationFields, needs_data, resolve_groups, resolve_kv_cache
from planner.recipe.specs import HiddenModule, ModifierSpec, ModuleRef, QuantArgs, Scheme, Selection
from planner.recipe.validation import check_patterns
from planner.upstream import ATTENTION_PROJECTIONS

CACHE_OBSERVERS = Note(
    kind="estimate",
    text="kv_cache_scheme: its observers copy one layer's keys or values at a time; these temporaries are not counted.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationMixinSpec(ModifierSpec):
    """The fields of QuantizationMixin, resolved, and what it does with a model."""

    groups: tuple[Scheme, ...] = ()
    ignore: tuple[str, ...] = ()
    kv_cache: QuantArgs | None = None
    bypass_divisibility_checks: bool = False

    @property
    def requires_calibration_data(self) -> bool:
        """mixin.py `_set_requires_calibration_data`: static activations, or a data-driven observer."""
        return calibrates(self)

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
        return Selection(weights=resolve(self.groups, self.ignore, modules))

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """Targets that match nothing, groups that do not divide, fused siblings whose schemes differ."""
        yield from target_notes(self, modules, selection)
        check_schemes(self, modules, selection)

    def hidden(self, modules: Sequence[HiddenModule]) -> Iterable[Note]:
        """Hidden modules stay as they are, or get scales that nobody computes."""
        idle = [module.name for module in modules if not module.runs]
        if idle:
            yield _note(f"{self.type} targets {few(idle)}, which text-only samples never run: they stay as they are.")
        run = [module.name for module in modules if module.runs]
        if run:
            yield _note(
                f"{self.type} targets {few(run)}, which LLM Compressor calls inside a wrapped "
                "function: their weight scales are never computed. Add them to ignore."
            )

    def uncounted(self) -> Iterable[Note]:
        """The observers of the KV cache."""
        return () if self.kv_cache is None else (CACHE_OBSERVERS,)

    def targets(self) -> Iterator[Target]:
        """Each target with its path in the recipe."""
        yield from ((target, f"{group.where}.targets") for group in self.groups for target in group.targets)


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
    }


def _unread_targets(fields: QuantizationFields, groups: Sequence[Scheme], where: str) -> Iterator[Note]:
    """A note on the modifier's own targets that no group repeats: the groups name their targets themselves."""
    if "targets" in fields.model_fields_set and (fields.config_groups or isinstance(fields.scheme, dict)):
        unread = [target for target in fields.targets if not any(target in group.targets for group in groups)]
        if unread:
            yield _note(f"{where}.targets is not heeded ({few(unread)}): its groups name their own")


# ---------------------------------------------------------------------- which modules
def resolve(groups: Iterable[Scheme], ignore: Iterable[str], modules: Sequence[ModuleRef]) -> dict[str, Scheme]:
    """quantization/lifecycle/apply.py `apply_quantization_config`: the config group of each module, in model order."""
    by_target = {target: group for group in groups for target in group.targets}
    targets, ignored = Patterns(by_target), Patterns(ignore)
    schemes: dict[str, Scheme] = {}
    for index, ref in enumerate(modules):
        kind = _kind(ref.classes)
        if kind is None:
            continue
        target = targets.first(ref)
        if target is None or ignored.first(ref) is not None:
            continue
        if kind == "weighted":
            schemes[ref.name] = by_target[target]
        else:
            _refuse_attention(by_target[target], modules, index)
    return schemes


@cache
def _kind(classes: tuple[str, ...]) -> Literal["weighted", "attention"] | None:
    """apply.py `apply_quantization_config` gives a scheme to Linears, Embeddings and cached attention only."""
    if is_weighted(classes):
        return "weighted"
    if not classes or "InternalModule" in classes:
        return None
    return "attention" if "attention" in classes[0].lower() else None


def _refuse_attention(scheme: Scheme, modules: Sequence[ModuleRef], index: int) -> None:
    """Refuses a target that names an attention module itself, not only modules inside it.

    Whether its forward takes a cache is not known here, so attention without one (which the library
    passes over in silence) is refused as well: such a target is a slip in either case.
    """
    ref = modules[index]
    inside = subtree(modules, index)[1:]
    if not any(child.name == f"{ref.name}.{part}" for child in inside for part in ATTENTION_PROJECTIONS):
        return
    parent_name = ref.name.rsplit(".", 1)[0]  # the module itself at top level, as in match.py `is_narrow_match`
    parent = next((one for one in modules[: index + 1] if one.name == parent_name), None)
    narrow = [target for target in scheme.targets if is_narrow(target, ref, parent, inside)]
    if not narrow:
        return
    where = f"{scheme.where}.targets"
    if scheme.weights is None and scheme.output_activations is None and scheme.input_activations is not None:
        raise UnsupportedError(f"{where}: planner does not model quantized attention ({shorten(narrow[0])})")
    hint = f"name the Linears in it, like re:.*{ref.name.rpartition('.')[2]}.*proj$"
    raise RecipeError(f"{shorten(narrow[0])} names {ref.name}, which has no weight itself; {hint}", where)


# ---------------------------------------------------------------------- what the library checks
def target_notes(spec: QuantizationMixinSpec, modules: Sequence[ModuleRef], selection: Selection) -> Iterator[Note]:
    """Targets and ignores that do not do what they seem to; RecipeError for a target that matches nothing."""
    for target in spec.targets():
        matches = matched(target, modules)
        if not any(_kind(ref.classes) for ref in matches):
            pattern, where = target
            example = few([ref.name or "the model itself" for ref in matches])
            yield _note(f"{where}: {shorten(pattern)} quantizes nothing: {example} holds no weight of its own")
    yield from ignore_notes(spec.ignore, f"{spec.where}.ignore", lambda: _candidates(spec, modules))
    if not selection.weights:
        yield nothing_left(spec.where)


def _candidates(spec: QuantizationMixinSpec, modules: Sequence[ModuleRef]) -> list[ModuleRef]:
    """The modules that could be ignored: those that are targeted."""
    return Patterns(target for target, _ in spec.targets()).of([ref for ref in modules if _kind(ref.classes)])


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
