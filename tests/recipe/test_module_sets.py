"""Modules that belong together are found as compressed-tensors finds them."""

import pytest

from planner.recipe.module_sets import ModuleSetError, module_sets
from planner.recipe.specs import ModuleRef


def refs(*names: str) -> list[ModuleRef]:
    return [ModuleRef(name, ("Linear", "Module")) for name in names]


def names(targets: list[str], *modules: str) -> list[list[list[str]]]:
    return [[[ref.name for ref in group] for group in found] for found in module_sets(targets, refs(*modules))]


def test_each_layer_is_a_set_in_the_order_of_the_patterns() -> None:
    found = names(["re:.*q$", "re:.*norm$"], "l.0.norm", "l.0.q", "l.1.norm", "l.1.q")
    assert found == [[["l.0.q"], ["l.0.norm"]], [["l.1.q"], ["l.1.norm"]]]


def test_all_experts_of_a_layer_belong_to_its_set() -> None:
    experts = [f"l.{i}.experts.{j}.up" for i in (0, 1) for j in (0, 1, 2)]
    found = names(["re:.*norm$", "re:.*up$"], "l.0.norm", *experts[:3], "l.1.norm", *experts[3:])
    assert found == [[["l.0.norm"], experts[:3]], [["l.1.norm"], experts[3:]]]


def test_nothing_at_all_is_no_set_and_no_error() -> None:
    assert names(["re:.*q$", "re:.*norm$"], "a", "b") == []
    assert names([], "a") == []


def test_a_last_set_that_lacks_a_match_is_an_error_that_names_it() -> None:
    with pytest.raises(ModuleSetError, match=r"the last set below l.1.q has no match for re:\.\*norm"):
        names(["re:.*q$", "re:.*norm$"], "l.0.norm", "l.0.q", "l.1.q")


def test_a_module_that_two_patterns_match_is_an_error() -> None:
    with pytest.raises(ModuleSetError, match=r"l\.0\.q is matched by"):
        names(["re:.*q$", "Linear"], "l.0.q")


def test_internal_modules_are_passed_over() -> None:
    modules = [ModuleRef("l.0.q", ("Transform", "InternalModule", "Module")), *refs("l.0.k")]
    assert list(module_sets(["re:.*q$"], modules)) == []
