import copy
import time
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from planner.errors import UnsupportedError
from planner.job import Build
from planner.models.build import build_model, parameter_count
from planner.models.experts import expert_shape, find_fused_experts, linearize
from planner.models.source import ModelSource, load_source

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**TEXT, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        **TEXT,
        **MLA,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "llama4": {
        "text_config": {**TEXT, "intermediate_size_mlp": 48, "num_local_experts": 4, "num_experts_per_tok": 1},
        "vision_config": VISION,
    },
    # experts without a gate: up, activation, down
    "nemotron_h": {
        **TEXT,
        "layers_block_type": ["attention", "moe"],
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
    },
}
WIDTHS = {"qwen3_moe": 24, "mixtral": 48, "gpt_oss": 48, "deepseek_v3": 24, "llama4": 48, "nemotron_h": 24}


def on_meta(family: str) -> Any:
    return build_model(ModelSource(name=family, config={"model_type": family, **FAMILIES[family]}), Build())


def with_weights(family: str) -> Any:
    config = AutoConfig.for_model(family, **copy.deepcopy(FAMILIES[family]))
    auto = AutoModelForImageTextToText if family == "llama4" else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def logits(model: Any) -> torch.Tensor:
    tokens = torch.randint(1, 60, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    return result


@pytest.mark.parametrize("all_experts", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_linear_experts_compute_what_the_fused_ones_did(family: str, all_experts: bool) -> None:
    model = with_weights(family)
    before = logits(model)
    assert linearize(model, model.config, all_experts) > 0
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)
    assert before.std() > 1e-3  # not a comparison of zeros


@pytest.mark.parametrize("family", FAMILIES)
def test_linearizing_changes_no_count_and_leaves_nothing_fused(family: str) -> None:
    model = on_meta(family)
    before, fused = parameter_count(model), find_fused_experts(model)
    assert linearize(model, model.config, True) == len(fused) > 0
    assert parameter_count(model) == before
    assert find_fused_experts(model) == []
    assert linearize(model, model.config, True) == 0
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_are_known_without_building(family: str) -> None:
    model = on_meta(family)
    name, fused = find_fused_experts(model)[0]
    shape = expert_shape(fused, model.config)
    predicted = tuple(
        (f"{number}.{name}", *sizes) for number in range(shape.experts) for name, *sizes in shape.linears()
    )
    linearize(model, model.config, True)
    experts = model.get_submodule(name)
    assert predicted == tuple(
        (name, module.in_features, module.out_features, module.bias is not None)
        for name, module in experts.named_modules()
        if isinstance(module, torch.nn.Linear)
    )
    width, bias = WIDTHS[family], family == "gpt_oss"
    up, gate, down = ("up_proj", 32, width, bias), ("gate_proj", 32, width, bias), ("down_proj", width, 32, bias)
    one = (up, down) if family == "nemotron_h" else (up, gate, down)
    assert predicted[: len(one)] == tuple((f"0.{name}", *rest) for name, *rest in one)
    assert len(predicted) == 4 * len(one)
    assert list(dict(experts.named_children())) == ["0", "1", "2", "3", "act_fn"]


@pytest.mark.parametrize(
    ("family", "experts", "expert"),
    [
        ("mixtral", "LinearExperts2D", "ExpertMLPWithGate"),
        ("nemotron_h", "LinearExperts2D", "ExpertMLPWithoutGate"),
        ("gpt_oss", "GptOssLinearExperts", "GptOssExpertMLP"),
        ("llama4", "Llama4LinearExperts", "ExpertMLPWithGate"),
    ],
)
def test_classes_have_the_names_that_recipes_can_match(family: str, experts: str, expert: str) -> None:
    model = on_meta(family)
    name, _ = find_fused_experts(model)[0]
    linearize(model, model.config, True)
    module = model.get_submodule(name)
    assert (type(module).__name__, type(module[0]).__name__) == (experts, expert)
    assert {"LinearExperts2D", "ModuleList"} <= {cls.__name__ for cls in type(module).__mro__}
    assert "ExpertMLP" in {cls.__name__ for cls in type(module[0]).__mro__}


def test_a_dense_model_has_no_fused_experts() -> None:
    model: Any = build_model(load_source("llama-3-8b"), Build(layers=1))
    assert find_fused_experts(model) == []
    assert linearize(model, model.config, True) == 0


def test_one_layer_of_deepseek_r1_is_linearized_alone_and_fast() -> None:
    model: Any = build_model(load_source("deepseek-r1"), Build())
    layer, before = model.model.layers[60], parameter_count(model)
    start = time.monotonic()
    assert linearize(layer, model.config, True) == 1
    assert time.monotonic() - start < 1  # about 0.02 s; the margin is for a busy machine
    assert parameter_count(model) == before
    assert len(find_fused_experts(model)) == 57
    assert sum(isinstance(module, torch.nn.Linear) for module in layer.mlp.experts.modules()) == 3 * 256


def test_a_gate_that_upstream_cannot_run_refuses_when_it_runs() -> None:
    source = ModelSource(
        name="toy",
        config={"model_type": "minimax_m3_vl_text", **TEXT, "num_local_experts": 4, "num_experts_per_tok": 2},
    )
    model: Any = build_model(source, Build())
    (name, _), *_ = find_fused_experts(model)
    linearize(model, model.config, True)
    with pytest.raises(UnsupportedError, match=r"MiniMaxM3VLExperts.*swiglu_alpha"):
        model.get_submodule(name)[0](torch.empty(1, 32, dtype=torch.bfloat16, device="meta"))


def test_experts_that_upstream_cannot_convert_are_refused() -> None:
    model = on_meta("llama4")
    with pytest.raises(UnsupportedError, match=r"Llama4TextExperts: .*text_config"):
        linearize(model.language_model, model.config.text_config, True)
    model = on_meta("mixtral")
    model.config.intermediate_size = 40
    with pytest.raises(UnsupportedError, match=r"MixtralExperts: its down_proj is \(4, 32, 48\)"):
        linearize(model, model.config, True)


def test_a_subclass_without_the_decorator_is_passed_by_as_upstream_does() -> None:
    model = on_meta("mixtral")
    _, fused = find_fused_experts(model)[0]
    fused.__class__ = type("Undecorated", (type(fused),), {})
    assert len(find_fused_experts(model)) == 1
