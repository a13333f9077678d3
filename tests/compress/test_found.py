"""What one modifier of a recipe leaves, the next one finds: schemes, scales, fewer experts."""

from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.program import Program
from planner.compress.recipes import recipe_from_dict
from planner.errors import RecipeError
from planner.recipe.specs import QuantArgs
from tests import toys

W8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}


def program(*modifiers: tuple[str, dict[str, Any]]) -> Program:
    """A toy of three layers (`.up`, `.down`), an embedding and a head."""
    stages = {f"{n}_stage": {"m_modifiers": {kind: fields}} for n, (kind, fields) in enumerate(modifiers)}
    return make_program(toys.Toy().graph, recipe_from_dict(stages, "my.yaml"), toys.job())[0]


def weights_of(made: Program, run: int) -> dict[str, QuantArgs | None]:
    return {
        module.name: module.scheme.weights if module.scheme else None
        for unit in made.runs[run].units
        for module in unit.named()
    }


def group(target: str, **weights: Any) -> dict[str, Any]:
    return {"config_groups": {"g": {"targets": [target], "weights": {**W8, **weights}}}}


def test_gptq_without_a_scheme_takes_the_earlier_modifiers() -> None:
    made = program(("QuantizationModifier", group("re:.*up$")), ("GPTQModifier", {}))
    first, second = weights_of(made, 0), weights_of(made, 1)
    assert first == second
    assert all(args is not None and args.actorder is None for args in second.values())
    assert isinstance(made.runs[1].spec, GPTQSpec)


def test_of_two_schemes_for_a_module_both_modifiers_find_the_later_one() -> None:
    made = program(
        ("QuantizationModifier", group("Linear")), ("GPTQModifier", group("re:.*down$", num_bits=4, symmetric=False))
    )
    for run in (0, 1):
        assert {args.num_bits for name, args in weights_of(made, run).items() if args and name.endswith("down")} == {4}
    assert {args.num_bits for name, args in weights_of(made, 0).items() if args and name.endswith("up")} == {8}


def test_a_module_has_the_scales_of_one_scheme_however_many_target_it() -> None:
    once = program(("QuantizationModifier", group("re:.*up$")))
    twice = program(("QuantizationModifier", group("re:.*up$")), ("QuantizationModifier", group("re:.*up$")))
    assert twice.qparam_bytes == once.qparam_bytes > 0
    other = program(("QuantizationModifier", group("re:.*up$")), ("QuantizationModifier", group("re:.*down$")))
    assert other.qparam_bytes > once.qparam_bytes


def test_gptq_that_finds_no_weights_to_quantize_is_refused() -> None:
    empty = {"config_groups": {"g": {"targets": ["Linear"], "input_activations": {"num_bits": 8}}}}
    with pytest.raises(RecipeError, match="give scheme or config_groups"):
        program(("QuantizationModifier", empty), ("GPTQModifier", {}))


def test_a_dense_model_has_no_experts_to_lose() -> None:
    with pytest.raises(RecipeError, match="finds no mixture of experts"):
        program(("REAPPruningModifier", {"sparsity": 0.5}), ("QuantizationModifier", group("Linear")))
