"""Which model a recipe of LLM Compressor's repository is planned on: a preset, or transformers' default of the family.

Configs of the named checkpoints are not shipped; what a recipe names (targets, ignore lists, mappings) depends on the
family's module names, and those are the same. A recipe without a model (the tests' files) is planned on Llama-3-8B.
"""

import re
from typing import Any

PRESET = "llama-3-8b"
"""For a recipe that names no model."""

FAMILIES: dict[str, str] = {
    r"Llama-4": "llama-4-scout",
    r"Llama-3\.3-70B": "llama-3.3-70b",
    r"Llama-3\.2-11B-Vision": "type:mllama",
    r"[Ll]lava": "type:llava",
    r"[Ll]lama": "llama-3-8b",
    r"Qwen3-Coder-30B|Qwen3-30B": "qwen3-30b-a3b",
    r"Qwen3-Next": "type:qwen3_next",
    r"Qwen3-VL-8B": "type:qwen3_vl",
    r"Qwen3-VL": "type:qwen3_vl_moe",
    r"Qwen3-Omni": "type:qwen3_omni_moe_thinker",
    r"Qwen3\.[56].*-A": "type:qwen3_5_moe",
    r"Qwen3\.8-1\.0B-A": "type:qwen3_5_moe",
    r"Qwen3\.[568]": "type:qwen3_5",
    r"Qwen3-0\.6B": "qwen3-0.6b",
    r"Qwen3-32B": "qwen3-32b",
    r"Qwen3": "qwen3-8b",
    r"Qwen2\.5-VL": "qwen2.5-vl-7b",
    r"Qwen2-VL": "type:qwen2_vl",
    r"Qwen2-Audio": "type:qwen2_audio",
    r"Qwen1\.5-MoE": "type:qwen2_moe",
    r"Qwen2": "qwen2.5-7b",
    r"gemma-2-": "type:gemma2",
    r"gemma-3-|medgemma": "gemma-3-27b",
    r"gemma-4-12B": "type:gemma4_unified",
    r"gemma-4": "type:gemma4",
    r"DeepSeek-V4": "type:deepseek_v4",
    r"DeepSeek-V3\.2": "type:deepseek_v32",
    r"DeepSeek-R1|Kimi-K2-|Moonlight": "deepseek-r1",
    r"Kimi-K2\.6": "type:kimi_k25",
    r"GLM-5": "type:glm_moe_dsa",
    r"GLM-4": "type:glm4_moe",
    r"Step-3\.5": "type:step3p5",
    r"MiniMax-M2": "type:minimax_m2",
    r"Nemotron": "type:nemotron_h",
    r"whisper": "type:whisper",
    r"Idefics3": "type:idefics3",
    r"InternVL3": "type:internvl",
    r"Mistral-Small-3\.1": "type:mistral3",
    r"pixtral": "type:llava",
    r"Phi-3": "type:phi3",
    r"Mellum": "type:mellum",
    r"Hy3": "type:hy_v3",
    r"Trinity": "type:afmoe",
    r"granite-4": "type:granitemoehybrid",
    r"PowerMoE": "type:granitemoe",
    r"Mixtral": "mixtral-8x7b",
    r"North-Mini-Code": "type:cohere2_moe",
    r"Muse-Glimmer": "type:llama4",
}


QUANTIZED: dict[str, dict[str, Any]] = {
    "kimi_k25": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
            }
        },
        "ignore": [
            "re:.*self_attn.*",
            "re:.*shared_experts.*",
            r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
            "re:.*lm_head.*",
            "re:.*vision_tower.*",
            "re:.*mm_projector.*",
        ],
    }
}
"""quantization_config of families that are published quantized by compressed-tensors.

kimi_k25: routed experts alone are packed, not the MLPs of dense layers. InternLM/lmdeploy's tests of its
CompressedTensorsW4A16Config have the six patterns; ROCm/ATOM recipes/Kimi-K2.5.md says INT4 in groups of 32.
"""


WIDTHS: dict[str, dict[str, Any]] = {
    "qwen3_omni_moe_thinker": {"num_attention_heads": 32, "head_dim": 128, "vocab_size": 152064}
}
"""Of text models whose default config has sides that no published model has, and that no group divides.

transformers' Qwen3OmniMoeTextConfig has 28 heads, which do not divide 2048, and the vocabulary of 3584 that is another
model's hidden size. Qwen3-Omni-30B-A3B has 32 heads beside 4 (keras-team/keras-hub qwen3_omni_presets.py), of 128 (the
rotary embedding's output in a recorded run, tzhouam/vllm-omni qwen3_omni_layers.md); the vocabulary is that of
transformers' Qwen2_5OmniThinkerConfig.
"""


def model_of(name: str | None) -> str | dict[str, Any]:
    """The preset's name, or the content of a config.json. Raises KeyError for a model of which nothing is known."""
    if name is None:
        return PRESET
    family = next((family for pattern, family in FAMILIES.items() if re.search(pattern, name)), None)
    if family is None:
        raise KeyError(name)
    return default_config(family.removeprefix("type:")) if family.startswith("type:") else family


def default_config(model_type: str) -> dict[str, Any]:
    """transformers' default config of a family, with the class that a checkpoint of it names."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    config = AutoConfig.for_model(model_type)
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING else None
    if mapping is None and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        mapping = MODEL_FOR_CAUSAL_LM_MAPPING
    data: dict[str, Any] = config.to_dict()
    if model_type in QUANTIZED:
        data["quantization_config"] = QUANTIZED[model_type]
    if model_type in WIDTHS:
        data["text_config"] = {**data["text_config"], **WIDTHS[model_type]}
    return data if mapping is None else data | {"architectures": [mapping[type(config)].__name__]}
