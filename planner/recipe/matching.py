"""Which modules a recipe touches, decided as compressed-tensors and LLM Compressor decide it. No torch.

Mirrors compressed_tensors/utils/match.py (`match_targets`, `match_named_modules`, `is_narrow_match`),
quantization/lifecycle/apply.py (`apply_quantization_config`), and llmcompressor's
modifiers/pruning/sparsegpt/sgpt_base.py (`on_initialize`, `on_calibration_start`). The library's own
functions take torch modules and compile each pattern anew; here a module is its name and the names of
its classes, so that 45,000 of them take a fraction of a second. A test holds both side by side.

Every function takes all modules of the model in the order of `named_modules()`, containers included.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Literal

from planner.errors import RecipeError, UnsupportedError
from planner.hints import did_you_mean, few, shorten
from planner.recipe.specs import GPTQSpec, ModifierSpec, ModuleRef, QuantizationSpec, Scheme, SparseGPTSpec

PRUNABLE = ("Linear", "Conv1d", "Conv2d", "Conv3d")  # sgpt_base.py PRUNABLE_LAYER_TYPES

# Recipes that serve many models carry these for the families that need them (the shipped recipes and
# LLM Compressor's examples do): where they match nothing, nothing is wrong and nothing is said.
PRECAUTIONS = frozenset(
    "re:.*" + pattern
    for pattern in (
        *("lm_head", "lm_head$", "embed_tokens$", "router", "router$", r"router\.?$", "block_sparse_moe.gate"),
        *("mlp.gate$", r"mlp\.gate$", r"mlp\.gate\.?$", "mlp.shared_expert_gate$"),
        *("shared_expert_gate$", r"shared_expert_gate\.?$", "shared_expert_gate.*"),
        *("visual.*", "vision_tower.*", "vision_model.*", "multi_modal_projector.*", "audio_tower.*"),
    )
) | {"re:visual.*", "re:model.visual.*", "re:vision_tower.*", "re:multi_modal_projector.*"}

_PROJECTIONS = ("k_proj", "v_proj", "qkv_proj", "kv_b_proj")  # initialize.py `_is_attention_module`


def resolve(spec: QuantizationSpec, modules: Sequence[ModuleRef]) -> dict[str, Scheme]:
    """The config group of each Linear and Embedding that is quantized, in model order.

    A group may be empty (the preset UNQUANTIZED, or no scheme at all): its modules are listed too,
    because LLM Compressor unties word embeddings when they are merely targeted.
    """
    schemes = {target: group for group in spec.groups for target in group.targets}
    targets, ignored = _Patterns(schemes), _Patterns(spec.ignore)
    found: dict[str, Scheme] = {}
    for index, ref in enumerate(modules):
        kind = _kind(ref.classes)
        if kind is None:
            continue
        target = targets.first(ref)
        if target is None or ignored.first(ref) is not None:
            continue
        if kind == "weighted":
            found[ref.name] = schemes[target]
        else:
            _refuse_attention(schemes[target], modules, index)
    return found


def resolve_sparse(spec: SparseGPTSpec, modules: Sequence[ModuleRef]) -> tuple[str, ...]:
    """The modules that SparseGPT prunes, in model order: prunable ones in every targeted subtree."""
    ignored = _Patterns(spec.ignore)
    pruned = {ref.name for ref, compared in _prunable(spec, modules) if ignored.first(compared) is None}
    return tuple(ref.name for ref in modules if ref.name in pruned)


def check_targets(
    spec: ModifierSpec, modules: Sequence[ModuleRef], resolved: Mapping[str, Scheme] | Sequence[str]
) -> tuple[str, ...]:
    """Refuses targets that match nothing in the model; returns what the user should know as notes.

    `resolved` is what `resolve` or `resolve_sparse` gave for the same arguments.
    """
    notes: list[str] = []
    for target, where in _targets(spec):
        matched = _matches(target, modules)
        if not matched:
            raise RecipeError(f"{shorten(target)} matches no module of this model{_hint(target, modules)}", where)
        if isinstance(spec, QuantizationSpec) and not any(_kind(ref.classes) for ref in matched):
            example = few([ref.name or "the model itself" for ref in matched])
            notes.append(f"{where}: {shorten(target)} quantizes nothing: {example} holds no weight of its own")
    notes += _ignore_notes(spec, modules)
    if not resolved:
        notes.append(f"{spec.where} leaves this model as it is: all that it targets is ignored")
    if isinstance(spec, GPTQSpec) and not _gptq_hooks(modules, resolved):
        raise RecipeError(
            "finds nothing to quantize in this model: no Linear is both targeted and not ignored", spec.where
        )
    return tuple(notes)


def check_group_sizes(resolved: Mapping[str, Scheme], columns: Mapping[str, int], spec: QuantizationSpec) -> None:
    """Refuses what LLM Compressor refuses before it starts: groups that do not divide a weight's columns.

    llmcompressor/modifiers/quantization/group_size_validation.py `_layer_indivisible`. A weight narrower
    than one group passes there. `columns` is the last dimension of each resolved module's weight.
    """
    if spec.bypass_divisibility_checks:
        return
    bad: dict[tuple[str, int, int], list[str]] = {}
    for name, scheme in resolved.items():
        size = _strict_group_size(scheme)
        if size is not None and columns[name] >= size and columns[name] % size:
            bad.setdefault((scheme.where, size, columns[name]), []).append(name)
    if bad:
        where, size, _ = next(iter(bad))
        same = [f"{width} ({few(names)})" for (group, _, width), names in bad.items() if group == where]
        advice = "add them to ignore, or take a group_size that divides"
        raise RecipeError(f"{size} does not divide {few(same, 3)}; {advice}", f"{where}.weights.group_size")


class _Patterns:
    """Targets or ignores, compiled once, in the order in which `match_targets` ranks them."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._ranked = sorted(dict.fromkeys(patterns), key=lambda pattern: ("re:" in pattern, pattern))
        self._by_name = [(pattern, _matcher(pattern)) for pattern in self._ranked]
        self._by_class: dict[tuple[str, ...], str | None] = {}

    def first(self, ref: ModuleRef) -> str | None:
        """The pattern that decides: a whole name, else a regular expression, else a class; None without match."""
        name = ref.name
        for pattern, matches in self._by_name:
            if matches(name):
                return pattern
        classes = ref.classes
        if classes not in self._by_class:
            known = _module_classes(classes)
            self._by_class[classes] = next((pattern for pattern in self._ranked if pattern in known), None)
        return self._by_class[classes]


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> Callable[[str], object]:
    """match.py `match_name`: `re:` patterns match from the start of the name, other text is the whole name."""
    if not pattern.startswith("re:"):
        return pattern.__eq__
    text = pattern.removeprefix("re:")
    if text.startswith(".*") and text[2:3] not in ("?", "+", "*", "{") and "|" not in text:
        # `match` of `.*X` is `search` of `X` (names have no line breaks), and several times faster
        return re.compile(text[2:]).search
    return re.compile(text).match


@cache
def _module_classes(classes: tuple[str, ...]) -> frozenset[str]:
    """Class names that match.py `_match_class` compares: torch modules only, and vLLM's LinearBase as Linear."""
    if "InternalModule" in classes:
        return frozenset()
    known = classes[: classes.index("Module") + 1] if "Module" in classes else classes
    return frozenset(known) | ({"Linear"} if "LinearBase" in known else set())


@cache
def _kind(classes: tuple[str, ...]) -> Literal["weighted", "attention"] | None:
    """apply.py `apply_quantization_config` gives a scheme to Linears, Embeddings and cached attention only."""
    if not classes or "InternalModule" in classes:
        return None
    if "Linear" in classes or "Embedding" in classes:
        return "weighted"
    return "attention" if "attention" in classes[0].lower() else None


def _refuse_attention(scheme: Scheme, modules: Sequence[ModuleRef], index: int) -> None:
    """Stops at a target that names an attention module itself, not only what is inside it.

    Whether its forward takes a cache is not known here, so attention without one (which the library
    passes over in silence) is refused as well: such a target is a slip in either case.
    """
    ref = modules[index]
    inside = _subtree(modules, index)[1:]
    if not any(child.name == f"{ref.name}.{part}" for child in inside for part in _PROJECTIONS):
        return
    outside = ref.name.rsplit(".", 1)[0]  # the module itself at top level, as in `is_narrow_match`
    parent = next((one for one in modules[: index + 1] if one.name == outside), None)
    narrow = [target for target in scheme.targets if _is_narrow(target, ref, parent, inside)]
    if not narrow:
        return
    where = f"{scheme.where}.targets"
    if scheme.weights is None and scheme.output_activations is None and scheme.input_activations is not None:
        raise UnsupportedError(f"{where}: planner does not model quantized attention ({shorten(narrow[0])})")
    hint = f"name the Linears in it, like re:.*{ref.name.rpartition('.')[2]}.*proj$"
    raise RecipeError(f"{shorten(narrow[0])} names {ref.name}, which has no weight itself; {hint}", where)


def _is_narrow(target: str, ref: ModuleRef, parent: ModuleRef | None, inside: Sequence[ModuleRef]) -> bool:
    """match.py `is_narrow_match`: the target fits the module, and neither its parent nor anything inside it."""
    pattern = _Patterns((target,))
    around = (parent if parent is not None else ref, *inside)
    return pattern.first(ref) is not None and all(pattern.first(other) is None for other in around)


def _prunable(spec: SparseGPTSpec, modules: Sequence[ModuleRef]) -> Iterator[tuple[ModuleRef, ModuleRef]]:
    """Prunable modules below each target, each with the name under which `ignore` is compared.

    sgpt_base.py builds that name as `{target}.{name below it}`: a module that is itself the target ends
    in a dot (`lm_head.`), so neither `lm_head` nor `re:.*lm_head$` leaves it out; `re:.*lm_head` does.
    """
    targets = _Patterns(spec.targets)
    for index, layer in enumerate(modules):
        if targets.first(layer) is None:
            continue
        for ref in _subtree(modules, index):
            if not _module_classes(ref.classes).isdisjoint(PRUNABLE) and "Embedding" not in ref.classes:
                below = ref.name[len(layer.name) :].removeprefix(".")
                yield ref, ModuleRef(f"{layer.name}.{below}", ref.classes)


def _subtree(modules: Sequence[ModuleRef], index: int) -> Sequence[ModuleRef]:
    """The module and everything inside it: `named_modules()` lists a subtree in one piece."""
    name = modules[index].name
    if not name:
        return modules[index:]
    end = index + 1
    while end < len(modules) and modules[end].name.startswith(f"{name}."):
        end += 1
    return modules[index:end]


def _targets(spec: ModifierSpec) -> Iterator[tuple[str, str]]:
    """Each target with its path in the recipe."""
    if isinstance(spec, SparseGPTSpec):
        yield from ((target, f"{spec.where}.targets") for target in spec.targets)
    else:
        yield from ((target, f"{group.where}.targets") for group in spec.groups for target in group.targets)


def _matches(target: str, modules: Sequence[ModuleRef]) -> list[ModuleRef]:
    pattern = _Patterns((target,))
    return [ref for ref in modules if pattern.first(ref) is not None]


def _ignore_notes(spec: ModifierSpec, modules: Sequence[ModuleRef]) -> Iterator[str]:
    """Ignores that leave nothing out; a common precaution only where it was meant to."""
    suspects = [pattern for pattern in spec.ignore if pattern not in PRECAUTIONS or _is_trap(pattern, spec)]
    if not suspects:
        return
    if isinstance(spec, SparseGPTSpec):
        candidates = [compared for _, compared in _prunable(spec, modules)]
    else:
        targets = _Patterns(target for target, _ in _targets(spec))
        candidates = [ref for ref in modules if _kind(ref.classes) and targets.first(ref) is not None]
    for pattern in suspects:
        compiled = _Patterns((pattern,))
        if not any(compiled.first(ref) is not None for ref in candidates):
            hint = _ignore_hint(pattern, candidates)
            if hint or pattern not in PRECAUTIONS:
                yield f"{spec.where}.ignore: {shorten(pattern)} leaves nothing out{hint}"


def _is_trap(pattern: str, spec: ModifierSpec) -> bool:
    """SparseGPT's dot at the end of names defeats a `$` that works for every other modifier."""
    return isinstance(spec, SparseGPTSpec) and pattern.endswith("$")


def _ignore_hint(pattern: str, candidates: Sequence[ModuleRef]) -> str:
    """The way to write what was meant, when a module's name ends in the pattern's text."""
    wanted = pattern.removeprefix("re:").removeprefix(".*").rstrip("$")
    ending = "." + wanted.replace("\\", "")
    found = next((ref.name for ref in candidates if f".{ref.name}".rstrip(".").endswith(ending)), None)
    if found is None:
        return ""
    end = r"\.?$" if found.endswith(".") else "$"
    return f"; it is compared with {found} as a whole, write re:.*{wanted}{end}"


def _gptq_hooks(modules: Sequence[ModuleRef], resolved: Mapping[str, Scheme] | Sequence[str]) -> bool:
    """gptq/base.py `on_calibration_start` raises when it hooks nothing; embeddings are not hooked."""
    schemes = resolved if isinstance(resolved, Mapping) else {}
    linears = (ref for ref in modules if ref.name in schemes and "Embedding" not in ref.classes)
    return any(schemes[ref.name].weights is not None for ref in linears)


def _strict_group_size(scheme: Scheme) -> int | None:
    weights = scheme.weights
    if weights is None or weights.strategy not in ("group", "tensor_group"):
        return None
    return weights.group_size


def _hint(target: str, modules: Sequence[ModuleRef]) -> str:
    """What the user may have meant: a whole name, a name's last part, or a class."""
    whole = next((ref.name for ref in modules if ref.name.endswith(f".{target}")), None)
    if whole is not None:
        return f"; names are compared whole, write {whole} or re:.*{target}$"
    words = re.findall(r"[A-Za-z_]\w*", target.removeprefix("re:"))
    parts = {ref.name.rpartition(".")[2] for ref in modules} | {ref.classes[0] for ref in modules if ref.classes}
    linears = {ref.name.rpartition(".")[2] for ref in modules if _kind(ref.classes) == "weighted"}
    named = {part for part in parts if part and not part.isdigit()}
    return did_you_mean(words[-1] if words else target, sorted(named)) or f"; it has {few(sorted(linears), 8)}"
