"""What is left of a model whose recipe removes experts."""

import pytest

from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.errors import UnsupportedError
from planner.job import Build
from planner.models.built import BuiltModel
from planner.models.load import load_built
from planner.models.pruned import pruned

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
MIXTURE = {"model_type": "qwen3_moe", **SIZES, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
REAP = {"REAPPruningModifier": {"sparsity": 0.25}}
FP8 = {"QuantizationModifier": {"targets": ["Linear"], "scheme": "FP8_DYNAMIC"}}


@pytest.fixture(scope="module")
def built() -> BuiltModel:
    return load_built({**MIXTURE, "head_dim": 8, "num_key_value_heads": 2}, Build())


def test_fewer_experts_and_all_else_as_it_was(built: BuiltModel) -> None:
    recipe = recipe_from_dict({"a_stage": {"a_modifiers": REAP}, "b_stage": {"b_modifiers": FP8}}, "my.yaml")
    left, rest = pruned(built, recipe)
    assert [spec.type for spec in rest.modifiers] == ["QuantizationModifier"]
    experts = 2 * 2 * 3 * 32 * 16  # 2 layers, 2 of 8 experts, 3 matrices
    router = 2 * 2 * 32
    count = [sum(p.numel() for p in one.module.parameters()) for one in (built, left)]
    assert count[0] - count[1] == experts + router
    assert built.source.config["num_experts"] == 8


def test_a_layer_that_keeps_all_experts_leaves_a_model_that_no_config_describes(built: BuiltModel) -> None:
    ignoring = {"REAPPruningModifier": {"sparsity": 0.25, "ignore": [r"layers\.1\."]}}
    with pytest.raises(UnsupportedError, match=r"model\.layers\.1\.mlp keeps all experts, and the saved config"):
        pruned(built, recipe_from_dict({"a_stage": {"a_modifiers": ignoring}}, "my.yaml"))


def test_a_recipe_that_removes_nothing_leaves_the_very_same(built: BuiltModel) -> None:
    recipe = load_recipe("rtn_w4a16")
    assert pruned(built, recipe) == (built, recipe)
