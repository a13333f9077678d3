"""Targets and ignores: which modules a pattern takes, decided as compressed-tensors decides it. No torch.

Mirrors compressed_tensors/utils/match.py (`match_targets`, `match_named_modules`, `is_narrow_match`). The library's
own functions take torch modules and compile each pattern anew; here a module is its name and the names of
its classes, so that 45,000 of them take a fraction of a second. A test compares the two.

Every function takes all modules of the model in the order of `named_modules()`, containers included. What a
modifier makes of a match is its own affair (`planner.compress.modifiers`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from planner.errors import RecipeError
from planner.hints import did_you_mean, few, shorten
from planner.notes import Note
from planner.recipe.expressions import matcher
from planner.recipe.specs import ModuleRef

# Recipes that serve many models carry these for the families that need them (the shipped recipes and
# LLM Compressor's examples do): where they match nothing, nothing is wrong and no note is due.
PRECAUTIONS = frozenset(
    "re:.*" + pattern
    for pattern in (
        *("lm_head", "lm_head$", "embed_tokens$", "router", "router$", r"router\.?$", "block_sparse_moe.gate"),
        *("mlp.gate$", r"mlp\.gate$", r"mlp\.gate\.?$", "mlp.shared_expert_gate$"),
        *("shared_expert_gate$", r"shared_expert_gate\.?$", "shared_expert_gate.*"),
        *("visual.*", "vision_tower.*", "vision_model.*", "multi_modal_projector.*", "audio_tower.*"),
    )
) | {"re:visual.*", "re:model.visual.*", "re:vision_tower.*", "re:multi_modal_projector.*"}

Target = tuple[str, str]
"""A pattern, and its path in the recipe file."""


class Patterns:
    """Targets or ignores, compiled once, in the order in which `match_targets` ranks them."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._ranked = sorted(dict.fromkeys(patterns), key=lambda pattern: ("re:" in pattern, pattern))
        self._names = frozenset(pattern for pattern in self._ranked if not pattern.startswith("re:"))
        self._expressions = [(each, matcher(each)) for each in self._ranked if each.startswith("re:")]
        self._by_class: dict[tuple[str, ...], str | None] = {}

    def first(self, ref: ModuleRef) -> str | None:
        """The pattern that decides: a whole name, else a regular expression, else a class; None without match."""
        name = ref.name
        if name in self._names:
            return name
        for pattern, matches in self._expressions:
            if matches(name):
                return pattern
        classes = ref.classes
        if classes not in self._by_class:
            known = module_classes(classes)
            self._by_class[classes] = next((pattern for pattern in self._ranked if pattern in known), None)
        return self._by_class[classes]

    def of(self, modules: Sequence[ModuleRef]) -> list[ModuleRef]:
        """The modules that any of the patterns matches."""
        return [ref for ref in modules if self.first(ref) is not None]


def selected(targets: Iterable[str], ignore: Iterable[str], modules: Sequence[ModuleRef]) -> list[ModuleRef]:
    """match.py `match_named_modules`: what a target matches and no ignore does."""
    left_out = Patterns(ignore)
    return [ref for ref in Patterns(targets).of(modules) if left_out.first(ref) is None]


def target_matches(targets: Iterable[Target], modules: Sequence[ModuleRef]) -> list[tuple[Target, list[ModuleRef]]]:
    """Every target with what it matches, nothing too: match.py `match_named_modules` warns of that and goes on.

    Raises RecipeError where no target matches anything: then nothing is left to do, and the target is a slip.
    """
    found = [(target, Patterns((target[0],)).of(modules)) for target in targets]
    if found and not any(matches for _, matches in found):
        matched(found[0][0], modules)
    return found


def no_match_note(target: Target, modules: Sequence[ModuleRef]) -> Note:
    """The note on a target that matches nothing, beside others that match."""
    pattern, where = target
    text = f"{where}: {shorten(pattern)} matches no module of this model{_target_hint(pattern, modules)}"
    return Note(kind="recipe", text=text)


def matched(target: Target, modules: Sequence[ModuleRef]) -> list[ModuleRef]:
    """What one target matches. Raises RecipeError where that is nothing, with a guess at what was meant."""
    pattern, where = target
    matches = Patterns((pattern,)).of(modules)
    if not matches:
        raise RecipeError(f"{shorten(pattern)} matches no module of this model{_target_hint(pattern, modules)}", where)
    return matches


MOST_NOTES = 20
"""On one list."""


def ignore_notes(
    ignore: Iterable[str], where: str, candidates: Callable[[], Sequence[ModuleRef]], traps: Iterable[str] = ()
) -> Iterator[Note]:
    """Notes on ignores that leave nothing out.

    `candidates` gives the targeted modules under the names that ignores are compared with; `where` is the path of
    the list in the recipe. A common precaution gets a note only where it is among the `traps`: patterns that
    look as if they left something out.
    """
    traps = frozenset(traps)
    suspects = [pattern for pattern in ignore if pattern not in PRECAUTIONS or pattern in traps]
    compared = candidates() if suspects else ()
    idle = (pattern for pattern in suspects if not Patterns((pattern,)).of(compared))
    hinted = ((pattern, _ignore_hint(pattern, compared)) for pattern in idle)
    told = [(pattern, hint) for pattern, hint in hinted if hint or pattern not in PRECAUTIONS]
    for pattern, hint in told[:MOST_NOTES]:
        yield Note(kind="recipe", text=f"{where}: {shorten(pattern)} leaves nothing out{hint}")
    if len(told) > MOST_NOTES:
        yield Note(kind="recipe", text=f"{where}: {len(told) - MOST_NOTES:,} more leave nothing out")


def nothing_left(where: str) -> Note:
    """The note on a modifier whose ignores leave out all that its targets match."""
    return Note(kind="recipe", text=f"{where} leaves this model as it is: all that it targets is ignored")


def is_narrow(target: str, ref: ModuleRef, parent: ModuleRef | None, inside: Sequence[ModuleRef]) -> bool:
    """match.py `is_narrow_match`: the target fits the module, and neither its parent nor anything inside it."""
    pattern = Patterns((target,))
    neighbours = (parent if parent is not None else ref, *inside)
    return pattern.first(ref) is not None and not pattern.of(neighbours)


def subtree(modules: Sequence[ModuleRef], index: int) -> Sequence[ModuleRef]:
    """The module and everything inside it: `named_modules()` lists a subtree in one piece."""
    name = modules[index].name
    if not name:
        return modules[index:]
    end = index + 1
    while end < len(modules) and modules[end].name.startswith(f"{name}."):
        end += 1
    return modules[index:end]


@cache
def module_classes(classes: tuple[str, ...]) -> frozenset[str]:
    """Class names that match.py `_match_class` compares: torch modules only, and vLLM's LinearBase as Linear."""
    if "InternalModule" in classes:
        return frozenset()
    known = classes[: classes.index("Module") + 1] if "Module" in classes else classes
    return frozenset(known) | ({"Linear"} if "LinearBase" in known else set())


def _target_hint(target: str, modules: Sequence[ModuleRef]) -> str:
    """What the user may have meant: a whole name, a name's last part, or a class."""
    full_name = next((ref.name for ref in modules if ref.name.endswith(f".{target}")), None)
    if full_name is not None:
        return f"; names are compared whole, write {full_name} or re:.*{target}$"
    words = re.findall(r"[A-Za-z_]\w*", target.removeprefix("re:"))
    parts = {ref.name.rpartition(".")[2] for ref in modules} | {ref.classes[0] for ref in modules if ref.classes}
    linears = {ref.name.rpartition(".")[2] for ref in modules if is_weighted(ref.classes)}
    named = {part for part in parts if part and not part.isdigit()}
    return did_you_mean(words[-1] if words else target, sorted(named)) or f"; it has {few(sorted(linears), 8)}"


@cache
def is_weighted(classes: tuple[str, ...]) -> bool:
    """A Linear or an Embedding: what quantization/lifecycle/apply.py `apply_quantization_config` gives a scheme to."""
    return "InternalModule" not in classes and ("Linear" in classes or "Embedding" in classes)


def _ignore_hint(pattern: str, candidates: Sequence[ModuleRef]) -> str:
    """The way to write what was meant, when a module's name ends in the pattern's text."""
    wanted = pattern.removeprefix("re:").removeprefix(".*").rstrip("$")
    ending = "." + wanted.replace("\\", "")
    meant = next((ref.name for ref in candidates if f".{ref.name}".rstrip(".").endswith(ending)), None)
    if meant is None:
        return ""
    end = r"\.?$" if meant.endswith(".") else "$"
    return f"; it is compared with {meant} as a whole, write re:.*{wanted}{end}"
