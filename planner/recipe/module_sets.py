"""Modules that belong together, found by one pattern each: a norm and the Linears behind it, layer by layer. No torch.

Mirrors compressed_tensors/utils/match.py `match_modules_set`. A set is complete when each pattern has a match, and ends
where the next match lies outside of what its modules have in common: so all experts of a layer are in that layer's set.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from planner.hints import few, shorten
from planner.recipe.matching import Patterns, module_classes
from planner.recipe.specs import ModuleRef

ModuleSet = tuple[tuple[ModuleRef, ...], ...]
"""What each pattern matches, in the order of the patterns."""


class ModuleSetError(LookupError):
    """The library cannot group the modules; the text says why."""


def module_sets(targets: Sequence[str], modules: Sequence[ModuleRef]) -> Iterator[ModuleSet]:
    """The sets in model order; none where nothing matches at all.

    Raises ModuleSetError for a module that two patterns match, and where the last set is not complete.
    """
    patterns = [(target, Patterns((target,))) for target in targets]
    found: dict[str, list[ModuleRef]] = {}
    context: str | None = None
    unmatched = set(targets)
    for ref in modules:
        if ref.classes and not module_classes(ref.classes):
            continue  # an InternalModule is never matched, by name neither
        matched = []
        for target, pattern in patterns:
            if pattern.first(ref) is None:
                continue
            around = common_ancestor([ref.name] if context is None else [ref.name, context])
            if not unmatched and around != context:
                yield tuple(tuple(found[each]) for each in targets)
                found, around, unmatched = {}, ref.name, set(targets)
            found.setdefault(target, []).append(ref)
            context = around
            unmatched.discard(target)
            matched.append(target)
        if len(set(matched)) > 1:
            raise ModuleSetError(f"{ref.name} is matched by {few(sorted(set(matched)), 3)}")
    if not unmatched and targets:
        yield tuple(tuple(found[each]) for each in targets)
    elif unmatched != set(targets):
        missing = few(sorted(shorten(target) for target in unmatched), 3)
        where = f" below {context}" if context else ""
        raise ModuleSetError(f"the last set{where} has no match for {missing}")


def common_ancestor(names: Sequence[str]) -> str:
    """match.py get_lowest_common_ancestor_name: the module that all of these are, or are in; empty for the model."""
    parts = zip(min(names).split("."), max(names).split("."), strict=False)
    return ".".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], parts))
