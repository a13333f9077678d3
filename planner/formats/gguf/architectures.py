"""From transformers' model types to llama.cpp's architectures.

Source: the `ModelBase.register` lines of llama.cpp conversion/*.py at 0c1e57098bba43ac29e6e3b677cdceebdd22334f.
"""

from collections.abc import Mapping
from functools import cache

# Where the name alone does not tell: most architectures are named after the model type.
_OTHER_NAMES = {
    "mistral": "llama", "mixtral": "llama", "glm": "chatglm", "ministral": "mistral3",
    "ministral3": "mistral3", "cohere": "command-r", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2",
    "youtu": "deepseek2", "glm4_moe_lite": "deepseek2", "qwen2_5_vl": "qwen2vl", "phi": "phi2",
    "gpt_bigcode": "starcoder", "falcon_mamba": "mamba", "olmo3": "olmo2",
    "granitemoehybrid": "granitehybrid", "granitemoeshared": "granitemoe", "bamba": "granitehybrid",
    "hunyuan_v1_dense": "hunyuan-dense", "hunyuan_v1_moe": "hunyuan-moe", "mimo_v2_flash": "mimo2",
    "qwen3_5": "qwen35", "qwen3_5_moe": "qwen35moe", "solar_open": "glm4moe",
}  # fmt: skip


def architecture(model_type: str) -> str | None:
    """llama.cpp's name of a decoder's architecture; None where its converter has none."""
    kind = model_type.removesuffix("_text")
    return _OTHER_NAMES.get(kind) or _by_plain_name().get(_plain(kind))


@cache
def _by_plain_name() -> Mapping[str, str]:
    import gguf

    return {_plain(name): name for name in gguf.MODEL_ARCH_NAMES.values()}


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
