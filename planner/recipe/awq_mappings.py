"""AWQ's mappings: which layer's output is scaled so that which layers' inputs become smoother, family by family.

Transcribed from llmcompressor/modifiers/transform/awq/mappings.py (AWQ_MAPPING_REGISTRY) and dynamic_mappings.py
(AWQ_DYNAMIC_MAPPING_REGISTRY), 0.14.0.1; a test with the real library beside it compares every entry.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from planner.recipe.specs import ModuleRef


class AwqMapping(NamedTuple):
    """mappings.py AWQMapping: patterns, as targets are written."""

    smooth_layer: str
    balance_layers: tuple[str, ...]
    activation_hook_target: str | None = None
    """Below the balance layers' common ancestor: the module whose input is observed, instead of the first of them."""


Mappings = tuple[AwqMapping, ...]

DEFAULT_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$")),
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping("re:.*post_attention_layernorm$", ("re:.*gate_proj$", "re:.*up_proj$")),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

MOE_DEFAULT_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$")),
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping(
        "re:.*post_attention_layernorm$",
        ("re:.*mlp.gate$", "re:.*mlp.experts.*.gate_proj$", "re:.*mlp.experts.*.up_proj$"),
    ),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

LLAMA4_DEFAULT_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$")),
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping(
        "re:.*post_attention_layernorm$",
        ("re:.*feed_forward.router$", "re:.*feed_forward.*.gate_proj$", "re:.*feed_forward.*.up_proj$"),
    ),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

PHI_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*qkv_proj$",)),
    AwqMapping("re:.*qkv_proj$", ("re:.*o_proj$",)),
    AwqMapping("re:.*post_attention_layernorm$", ("re:.*gate_up_proj$",)),
    AwqMapping("re:.*gate_up_proj$", ("re:.*down_proj$",)),
)

GEMMA2_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$")),
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping("re:.*pre_feedforward_layernorm$", ("re:.*gate_proj$", "re:.*up_proj$")),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

GEMMA3_MAPPINGS: Mappings = (
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping("re:.*pre_feedforward_layernorm$", ("re:.*gate_proj$", "re:.*up_proj$")),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

MUSE_GLIMMER_MAPPINGS: Mappings = (
    AwqMapping(
        "re:.*language_model.layers.\\d+.input_layernorm$",
        (
            "re:.*language_model.layers.\\d+.self_attn.q_proj$",
            "re:.*language_model.layers.\\d+.self_attn.k_proj$",
            "re:.*language_model.layers.\\d+.self_attn.v_proj$",
            "re:.*language_model.layers.\\d+.self_attn.gate_proj$",
        ),
    ),
    AwqMapping(
        "re:.*language_model.layers.\\d+.self_attn.v_proj$", ("re:.*language_model.layers.\\d+.self_attn.o_proj$",)
    ),
    AwqMapping(
        "re:.*language_model.layers.\\d+.pre_feedforward_layernorm$",
        ("re:.*language_model.layers.\\d+.mlp.gate_proj$", "re:.*language_model.layers.\\d+.mlp.up_proj$"),
    ),
    AwqMapping("re:.*language_model.layers.\\d+.mlp.up_proj$", ("re:.*language_model.layers.\\d+.mlp.down_proj$",)),
)

COHERE_MAPPINGS: Mappings = (
    AwqMapping(
        "re:.*input_layernorm$",
        (
            "re:.*self_attn.q_proj$",
            "re:.*self_attn.k_proj$",
            "re:.*self_attn.v_proj$",
            "re:.*mlp.gate_proj$",
            "re:.*mlp.up_proj$",
        ),
    ),
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

COHERE2_MOE_MAPPINGS: Mappings = (
    AwqMapping(
        "re:.*input_layernorm$",
        (
            "re:.*self_attn.q_proj$",
            "re:.*self_attn.k_proj$",
            "re:.*self_attn.v_proj$",
            "re:.*gate_proj$",
            "re:.*up_proj$",
        ),
    ),
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

DEEPSEEK_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*(q|q_a)_proj$", "re:.*kv_a_proj_with_mqa$")),
    AwqMapping("re:.*q_a_layernorm$", ("re:.*q_b_proj$",)),
    AwqMapping("re:.*kv_a_layernorm$", ("re:.*kv_b_proj$",)),
    AwqMapping("re:.*post_attention_layernorm$", ("re:.*mlp.gate$", "re:.*gate_proj$", "re:.*up_proj$")),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

GLM4_MOE_LITE_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*(q|q_a)_proj$", "re:.*kv_a_proj_with_mqa$")),
    AwqMapping("re:.*q_a_layernorm$", ("re:.*q_b_proj$",)),
    AwqMapping("re:.*kv_a_layernorm$", ("re:.*kv_b_proj$",)),
    AwqMapping("re:.*post_attention_layernorm$", ("re:.*gate_proj$", "re:.*up_proj$")),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

BLOOM_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*query_key_value$",)),
    AwqMapping("re:.*post_attention_layernorm$", ("re:.*dense_h_to_4h$",)),
    AwqMapping("re:.*gelu_impl$", ("re:.*dense_4h_to_h$",)),
)

EXAONE4_MAPPINGS: Mappings = (
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

AFMOE_MAPPINGS: Mappings = (
    AwqMapping(
        "re:.*input_layernorm$",
        ("re:.*self_attn.q_proj$", "re:.*self_attn.k_proj$", "re:.*self_attn.v_proj$", "re:.*self_attn.gate_proj$"),
    ),
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping("re:.*pre_mlp_layernorm$", ("re:.*mlp.router$", "re:.*mlp.*gate_proj$", "re:.*mlp.*up_proj$")),
    AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
)

QWEN2_5_VL_MAPPINGS: Mappings = (
    AwqMapping("re:.*input_layernorm$", ("re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$")),
    AwqMapping("re:.*v_proj$", ("re:.*o_proj$",)),
    AwqMapping(
        "re:.*language_model\\.layers\\.\\d+\\.post_attention_layernorm$",
        (
            "re:.*language_model\\.layers\\.\\d+\\.mlp\\.gate_proj$",
            "re:.*language_model\\.layers\\.\\d+\\.mlp\\.up_proj$",
        ),
    ),
    AwqMapping(
        "re:.*language_model\\.layers\\.\\d+\\.mlp\\.up_proj$",
        ("re:.*language_model\\.layers\\.\\d+\\.mlp\\.down_proj$",),
    ),
)

REGISTRY: Mapping[str, Mappings] = {
    "AfmoeForCausalLM": AFMOE_MAPPINGS,
    "BloomForCausalLM": BLOOM_MAPPINGS,
    "CohereForCausalLM": COHERE_MAPPINGS,
    "Cohere2ForCausalLM": COHERE_MAPPINGS,
    "Cohere2MoeForCausalLM": COHERE2_MOE_MAPPINGS,
    "Cohere2VisionForConditionalGeneration": COHERE_MAPPINGS,
    "DeepseekV2ForCausalLM": GLM4_MOE_LITE_MAPPINGS,
    "DeepseekV3ForCausalLM": DEEPSEEK_MAPPINGS,
    "Exaone4ForCausalLM": EXAONE4_MAPPINGS,
    "Gemma2ForCausalLM": GEMMA2_MAPPINGS,
    "Gemma3ForCausalLM": GEMMA3_MAPPINGS,
    "Gemma3ForConditionalGeneration": GEMMA3_MAPPINGS,
    "Glm4MoeForCausalLM": MOE_DEFAULT_MAPPINGS,
    "Glm4MoeLiteForCausalLM": GLM4_MOE_LITE_MAPPINGS,
    "GlmMoeDsaForCausalLM": GLM4_MOE_LITE_MAPPINGS,
    "GraniteForCausalLM": DEFAULT_MAPPINGS,
    "LlamaForCausalLM": DEFAULT_MAPPINGS,
    "Llama4ForConditionalGeneration": LLAMA4_DEFAULT_MAPPINGS,
    "Mistral3ForConditionalGeneration": DEFAULT_MAPPINGS,
    "MistralForCausalLM": DEFAULT_MAPPINGS,
    "MuseGlimmerForConditionalGeneration": MUSE_GLIMMER_MAPPINGS,
    "NanbeigeForCausalLM": DEFAULT_MAPPINGS,
    "OlmoForCausalLM": EXAONE4_MAPPINGS,
    "Olmo3ForCausalLM": EXAONE4_MAPPINGS,
    "Phi3ForCausalLM": PHI_MAPPINGS,
    "Phi3VForCausalLM": PHI_MAPPINGS,
    "Qwen2ForCausalLM": DEFAULT_MAPPINGS,
    "Qwen2_5OmniModel": DEFAULT_MAPPINGS,
    "Qwen2_5OmniThinkerForConditionalGeneration": DEFAULT_MAPPINGS,
    "Qwen2_5_VLForConditionalGeneration": QWEN2_5_VL_MAPPINGS,
    "Qwen2MoeForCausalLM": MOE_DEFAULT_MAPPINGS,
    "Qwen3ForCausalLM": DEFAULT_MAPPINGS,
    "Qwen3MoeForCausalLM": MOE_DEFAULT_MAPPINGS,
    "SeedOssForCausalLM": DEFAULT_MAPPINGS,
    "Ernie4_5_MoeForCausalLM": DEFAULT_MAPPINGS,
}


def inferred_mappings(architecture: str, modules: Sequence[ModuleRef], is_moe: bool) -> Mappings:
    """dynamic_mappings.py get_layer_mappings_from_model: built for the model, else by its class, else the default."""
    build = DYNAMIC_REGISTRY.get(architecture)
    built = build([ref.name for ref in modules], is_moe) if build else None
    return built or REGISTRY.get(architecture, DEFAULT_MAPPINGS)


def _hybrid_mappings(names: Sequence[str], is_moe: bool) -> Mappings | None:
    """dynamic_mappings.py build_hybrid_attention_mappings; which layers attend how is read off their modules."""
    full, linear = _layers_with(names, "self_attn"), _layers_with(names, "linear_attn")
    if not full or not linear:
        return None
    projections = tuple(dict.fromkeys(found[1] for name in names if (found := _LINEAR_INPUT.search(name))))
    balanced = tuple(f"re:.*linear_attn.{projection}$" for projection in projections)
    return (
        AwqMapping(rf"re:.*layers\.({'|'.join(full)})\.input_layernorm$", _of("self_attn", "q", "k", "v")),
        *([AwqMapping(rf"re:.*layers\.({'|'.join(linear)})\.input_layernorm$", balanced)] if balanced else []),
        AwqMapping(
            "re:.*post_attention_layernorm$", _HYBRID_EXPERTS if is_moe else ("re:.*gate_proj$", "re:.*up_proj$")
        ),
        AwqMapping("re:.*up_proj$", ("re:.*down_proj$",)),
    )


_LINEAR_INPUT = re.compile(r"\.linear_attn\.(in_proj_.*)$")
_HYBRID_DENSE = ("re:.*gate_proj$", "re:.*up_proj$")
_HYBRID_EXPERTS = (
    "re:.*mlp.experts.*.gate_proj$",
    "re:.*mlp.experts.*.up_proj$",
    "re:.*mlp.shared_expert_gate$",
    "re:.*mlp.shared_expert.gate_proj$",
    "re:.*mlp.shared_expert.up_proj$",
)


def _layers_with(names: Iterable[str], part: str) -> list[str]:
    """Numbers of the text decoder's layers that have this part."""
    pattern = re.compile(rf"^(?!.*(visual|vision)).*layers\.(\d+)\.{part}$")
    return [found[2] for name in names if (found := pattern.match(name))]


def _of(block: str, *projections: str) -> tuple[str, ...]:
    return tuple(f"re:.*{block}.{projection}_proj$" for projection in projections)


def _step3p5_mappings(names: Sequence[str], _is_moe: bool) -> Mappings | None:
    """dynamic_mappings.py build_step3p5_mappings: dense layers first, experts in later ones."""
    found = [match.groups() for name in names if (match := _STEP_LAYER.search(name))]
    dense, moe = ({int(n) for n, part in found if (part == "mlp") is is_dense} for is_dense in (True, False))
    if not dense and not moe:
        return None
    mappings = [
        AwqMapping("re:.*input_layernorm$", _of("self_attn", "q", "k", "v", "g")),
        AwqMapping("re:.*self_attn.v_proj$", ("re:.*self_attn.o_proj$",)),
    ]
    experts = ("re:.*moe.gate$", *_of("moe", "gate", "up"), *_of("share_expert", "gate", "up"))
    for layers, balanced in ((dense, _of("mlp", "gate", "up")), (moe, experts)):
        if layers:
            numbers = "|".join(map(str, sorted(layers)))
            mappings.append(AwqMapping(rf"re:.*layers\.({numbers})\.post_attention_layernorm$", balanced))
    mappings.append(AwqMapping("re:.*(mlp|share_expert).up_proj$", ("re:.*(mlp|share_expert).down_proj$",)))
    return tuple(mappings)


_STEP_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(mlp|moe|share_expert)(?:\.|$)")

DYNAMIC_REGISTRY: Mapping[str, Callable[[Sequence[str], bool], Mappings | None]] = {
    "Qwen3NextForCausalLM": _hybrid_mappings,
    "Qwen3_5ForCausalLM": _hybrid_mappings,
    "Qwen3_5ForConditionalGeneration": _hybrid_mappings,
    "Qwen3_5MoeForCausalLM": _hybrid_mappings,
    "Qwen3_5MoeForConditionalGeneration": _hybrid_mappings,
    "Step3p5ForCausalLM": _step3p5_mappings,
}
"""AWQ_DYNAMIC_MAPPING_REGISTRY: mappings that depend on the model's layers."""
