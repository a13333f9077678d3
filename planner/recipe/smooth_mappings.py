"""Which norm feeds which Linears, by architecture: what SmoothQuant smooths when a recipe has no mappings of its own.

The library's tables: llmcompressor/modifiers/transform/smoothquant/utils.py `MAPPINGS_REGISTRY` and
smoothquant/dynamic_mappings.py `SMOOTHQUANT_DYNAMIC_MAPPING_REGISTRY`. A test (opt-in, with the real library) compares
every family.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.recipe.specs import ModuleRef


@dataclass(frozen=True, slots=True)
class SmoothMapping:
    """Patterns of the modules that balance, and of the one whose output is smoothed."""

    balance: tuple[str, ...]
    smooth: str

    @property
    def patterns(self) -> tuple[str, ...]:
        """In the order in which the library matches them: the smoothed one last."""
        return (*self.balance, self.smooth)


Mappings = tuple[SmoothMapping, ...]


def _mapping(smooth: str, *balance: str) -> SmoothMapping:
    return SmoothMapping(tuple(f"re:.*{name}" for name in balance), f"re:.*{smooth}")


_QKV = ("q_proj", "k_proj", "v_proj")
_OWN_QKV = tuple(rf"self_attn\.{name}$" for name in _QKV)

DEFAULT: Mappings = (
    _mapping("input_layernorm", *_QKV),
    _mapping("post_attention_layernorm", "gate_proj", "up_proj"),
)
_MIXTRAL = DEFAULT[:1]
_BLOOM = (
    _mapping("input_layernorm", "query_key_value"),
    _mapping("post_attention_layernorm", "dense_h_to_4h"),
)
_PHI3 = (_mapping("input_layernorm", "qkv_proj"), _mapping("post_attention_layernorm", "gate_up_proj"))
_WHISPER = (
    _mapping("self_attn_layer_norm", "k_proj", "v_proj", "q_proj"),
    _mapping("final_layer_norm", "fc1"),
)
_DEEPSEEK = (_mapping("input_layernorm", "q(_a)?_proj$", "kv_a_proj_with_mqa"),)
_QWEN_MOE = (_mapping("input_layernorm$", *(f"{name}$" for name in _QKV)),)
_COHERE = (_mapping("input_layernorm$", *_OWN_QKV, r"mlp\.gate_proj$", r"mlp\.up_proj$"),)
_COHERE_MOE = (_mapping("input_layernorm$", *_OWN_QKV, "gate_proj$", "up_proj$"),)
_AFMOE = (
    _mapping("input_layernorm", *(rf"self_attn\.{name}" for name in (*_QKV, "gate_proj"))),
    _mapping("pre_mlp_layernorm", "mlp.*gate_proj", "mlp.*up_proj"),
)

FAMILIES: Mapping[str, Mappings] = {
    **dict.fromkeys(
        (
            "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Glm4MoeForCausalLM",
            "GraniteForCausalLM", "Llama4ForConditionalGeneration", "LlamaForCausalLM",
            "Mistral3ForConditionalGeneration", "MistralForCausalLM", "NanbeigeForCausalLM", "Qwen2ForCausalLM",
            "Qwen2_5OmniModel", "Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration",
            "Qwen3ForCausalLM", "SeedOssForCausalLM",
        ),
        DEFAULT,
    ),
    **dict.fromkeys(("Ernie4_5_MoeForCausalLM", "MixtralForCausalLM"), _MIXTRAL),
    **dict.fromkeys(("BloomForCausalLM", "ChatGLMForConditionalGeneration"), _BLOOM),
    **dict.fromkeys(("Phi3ForCausalLM", "Phi3VForCausalLM"), _PHI3),
    "WhisperForConditionalGeneration": _WHISPER,
    **dict.fromkeys(
        ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM"), _DEEPSEEK
    ),
    **dict.fromkeys(("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"), _QWEN_MOE),
    **dict.fromkeys(("CohereForCausalLM", "Cohere2ForCausalLM", "Cohere2VisionForConditionalGeneration"), _COHERE),
    "Cohere2MoeForCausalLM": _COHERE_MOE,
    "AfmoeForCausalLM": _AFMOE,
}  # fmt: skip
"""All but the hybrids below; whatever is in neither gets DEFAULT."""

HYBRIDS: Mapping[str, str] = {
    **dict.fromkeys(("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"), r"mlp\.shared_expert"),
    **dict.fromkeys(("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"), "mlp"),
}
"""Layers of two kinds of attention: where the Linears behind the second norm lie."""


def mappings_of(architecture: str, modules: Sequence[ModuleRef]) -> Mappings:
    """dynamic_mappings.py `get_layer_mappings_from_model`; `architecture` is the class name of the model.

    Raises LookupError for a hybrid in which no layer has full attention.
    """
    if architecture in HYBRIDS:
        return _hybrid(HYBRIDS[architecture], modules)
    return FAMILIES.get(architecture, DEFAULT)


def _hybrid(mlp: str, modules: Sequence[ModuleRef]) -> Mappings:
    """dynamic_mappings.py `_build_qwen3_5_smoothquant_mappings`: attention is smoothed where it is full, that is where
    a layer has `self_attn` (`config.layer_types` says so; modeling_qwen3_5.py Qwen3_5DecoderLayer)."""
    found = (re.search(r"layers\.(\d+)\.self_attn$", ref.name) for ref in modules)
    full = sorted({int(match[1]) for match in found if match})
    if not full:
        raise LookupError("no layer has full attention")
    attention = SmoothMapping(
        tuple(rf"re:.*self_attn\.{name}$" for name in _QKV),
        rf"re:.*layers\.({'|'.join(map(str, full))})\.input_layernorm$",
    )
    return attention, _mapping("post_attention_layernorm$", rf"{mlp}\.gate_proj$", rf"{mlp}\.up_proj$")
