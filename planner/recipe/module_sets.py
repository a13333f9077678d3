"""Modules that belong together, found by patterns: compressed_tensors/utils/match.py match_modules_set."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from planner.errors import RecipeError
from planner.hints import few
from planner.recipe.matching import Patterns
from planner.recipe.specs import ModuleRef

ModuleSet = list[list[ModuleRef]]
"""The modules of one set, pattern by pattern."""


def module_sets(patterns: Sequence[str], modules: Sequence[ModuleRef], where: str) -> Iterator[ModuleSet]:
    """Sets of modules that match all the patterns and have one parent, in model order; none where nothing matches.

    A set is complete when the next match would need a wider parent. Raises RecipeError, as match_modules_set does,
    where a module matches two patterns, or where modules are left over that make no whole set.
    """
    compiled = [(pattern, Patterns((pattern,))) for pattern in dict.fromkeys(patterns)]
    matches: dict[str, list[ModuleRef]] = {}
    parent: str | None = None
    for ref in modules:
        found = [pattern for pattern, compiled_pattern in compiled if compiled_pattern.first(ref) is not None]
        for pattern in found:
            context = common_ancestor([ref.name] if parent is None else [ref.name, parent])
            if len(matches) == len(compiled) and context != parent:
                yield [matches[each] for each in patterns]
                matches, context = {}, ref.name
            matches.setdefault(pattern, []).append(ref)
            parent = context
        if len(found) > 1:
            raise RecipeError(f"{ref.name} matches {few(found)}; LLM Compressor takes a module once", where)
    if len(matches) == len(compiled):
        yield [matches[each] for each in patterns]
    elif matches:
        missing = [pattern for pattern in patterns if pattern not in matches]
        example = matches[next(iter(matches))][-1].name
        raise RecipeError(
            f"{example} has no partner that matches {few(missing)}; LLM Compressor refuses such a set, "
            "write mappings that fit this model",
            where,
        )


def common_ancestor(names: Sequence[str]) -> str:
    """match.py get_lowest_common_ancestor_name: the module that all of these are, or are in; empty for the model."""
    parts = zip(min(names).split("."), max(names).split("."), strict=False)
    return ".".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], parts))
