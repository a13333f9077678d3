"""Which modules a quantizing modifier gives which scheme: Linears, embeddings, and attentions themselves.

compressed_tensors quantization/lifecycle/apply.py `apply_quantization_config`, and llmcompressor
modifiers/quantization/quantization/mixin.py `start_calibration`, which attaches observers.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

from planner.errors import RecipeError
from planner.hints import shorten
from planner.recipe.matching import Patterns, is_narrow, is_weighted, subtree
from planner.recipe.schemes import STATE_STRATEGIES
from planner.recipe.specs import AttentionScheme, ModuleRef, QuantArgs, Scheme
from planner.upstream import ATTENTION_PROJECTIONS, KV_CACHE_TARGETS


def resolve(groups: Iterable[Scheme], ignore: Iterable[str], modules: Sequence[ModuleRef]) -> dict[str, Scheme]:
    """The config group of each Linear and Embedding, in model order."""
    by_target = {target: group for group in groups for target in group.targets}
    targets, ignored = Patterns(by_target), Patterns(ignore)
    schemes: dict[str, Scheme] = {}
    for ref in modules:
        if kind_of(ref.classes) != "weighted":
            continue
        target = targets.first(ref)
        if target is not None and ignored.first(ref) is None:
            schemes[ref.name] = by_target[target]
            _refuse_heads(by_target[target])
    return schemes


def resolve_attention(
    groups: Sequence[Scheme], ignore: Sequence[str], cache: QuantArgs | None, modules: Sequence[ModuleRef]
) -> dict[str, AttentionScheme]:
    """Attentions whose states are quantized: all with a cache under kv_cache_scheme, and those that a target names.

    apply.py `_apply_kv_cache_scheme` heeds neither targets nor ignores; observers are attached by both.
    """
    by_target = {target: group for group in groups for target in group.targets}
    observed = Patterns([*by_target, *(KV_CACHE_TARGETS if cache is not None else ())])
    targets, ignored = Patterns(by_target), Patterns(ignore)
    found: dict[str, AttentionScheme] = {}
    for index, ref in enumerate(modules):
        if kind_of(ref.classes) != "attention" or not ref.takes_cache or not _has_projection(modules, index):
            continue
        is_left_out = ignored.first(ref) is not None
        if cache is not None:
            found[ref.name] = AttentionScheme(
                args=cache, is_observed=observed.first(ref) is not None and not is_left_out
            )
        target = None if is_left_out else targets.first(ref)
        if target is not None and _names_itself(by_target[target], modules, index):
            found[ref.name] = _of_group(by_target[target], ref)
    return found


def _of_group(scheme: Scheme, ref: ModuleRef) -> AttentionScheme:
    """initialize.py `_validate_attention_scheme`; observers/helpers.py `_flatten_attention`."""
    args = scheme.input_activations
    if scheme.weights is not None or scheme.output_activations is not None or args is None:
        hint = f"name the Linears in it, like re:.*{ref.name.rpartition('.')[2]}.*proj$"
        message = f"{shorten(scheme.targets[0])} names {ref.name}, which has no weight itself; {hint}"
        raise RecipeError(f"{message}, or give it input_activations alone", f"{scheme.where}.targets")
    if args.dynamic is not True and args.strategy not in STATE_STRATEGIES:
        message = f"an attention has one scale (tensor) or one for each head (attn_head), not {args.strategy}"
        raise RecipeError(message, f"{scheme.where}.input_activations.strategy")
    return AttentionScheme(args=args, queries=True, where=scheme.where)


def _refuse_heads(scheme: Scheme) -> None:
    """initialize.py `initialize_qparams` knows too few sides of a Linear's input for a scale a head."""
    args = scheme.input_activations
    if args is not None and args.strategy == "attn_head" and args.dynamic is not True:
        message = "a Linear cannot have the strategy attn_head here: LLM Compressor refuses it"
        raise RecipeError(message, f"{scheme.where}.input_activations")


@cache
def kind_of(classes: tuple[str, ...]) -> Literal["weighted", "attention"] | None:
    """apply.py gives a scheme to Linears, Embeddings and attention only."""
    if is_weighted(classes):
        return "weighted"
    if not classes or "InternalModule" in classes:
        return None
    return "attention" if "attention" in classes[0].lower() else None


def _has_projection(modules: Sequence[ModuleRef], index: int) -> bool:
    """initialize.py `_is_attention_module`."""
    ref = modules[index]
    inside = {child.name for child in subtree(modules, index)[1:]}
    return any(f"{ref.name}.{part}" in inside for part in ATTENTION_PROJECTIONS)


def _names_itself(scheme: Scheme, modules: Sequence[ModuleRef], index: int) -> bool:
    """match.py `is_narrow_match`: one of the group's targets names the attention, and nothing in it or around it."""
    ref = modules[index]
    parent_name = ref.name.rsplit(".", 1)[0]  # the module itself at top level
    parent = next((one for one in modules[: index + 1] if one.name == parent_name), None)
    inside = subtree(modules, index)[1:]
    return any(is_narrow(target, ref, parent, inside) for target in scheme.targets)
