"""Example scripts of LLM Compressor's repository that are rehearsed, and whose configs stand in for their models'."""

from dataclasses import dataclass, field

LLAMA = {"meta-llama/Meta-Llama-3-8B-Instruct": "llama-3-8b"}
QWEN2_VL = {"Qwen/Qwen2.5-VL-7B-Instruct": "qwen2.5-vl-7b"}


@dataclass(frozen=True)
class Script:
    """One script, unmodified."""

    what: str
    path: str
    """In the repository; one of our own where it has none (`own/`)."""
    models: dict[str, str] = field(default_factory=lambda: dict(LLAMA))
    """What the script calls its models, and the preset or file whose config each gets."""
    layers: int | None = 2
    vision_layers: int | None = None
    arguments: tuple[str, ...] = ()
    must: tuple[str, ...] = ("load", "setup", "calibrate", "compress", "finalize", "save")
    """Phases that its report has."""
    generates: bool = True
    fails: str = ""
    """What stops it for a reason of its own, on a real card, too."""


TEN = (
    Script("GPTQ", "examples/quantization_w4a16/llama3_example.py"),
    Script("AWQ", "examples/awq/llama_example.py"),
    Script("SmoothQuant and GPTQ", "examples/quantization_w8a8_int8/llama3_example.py"),
    Script("NVFP4", "examples/quantization_w4a4_fp4/llama3_example.py"),
    Script("FP8", "examples/quantization_w8a8_fp8/llama3_example.py", must=("load", "setup", "compress", "save")),
    Script("SparseGPT", "own/sparsegpt.py"),
    Script("AutoRound", "examples/autoround/quantization_wNa16/llama3_example.py"),
    Script(
        "mixture of experts",
        "examples/quantizing_moe/mixtral_example.py",
        {"mistralai/Mixtral-8x7B-Instruct-v0.1": "mixtral-8x7b"},
        generates=False,
    ),
    Script("vision, with images", "examples/multimodal_vision/qwen_2_5_vl_example.py", QWEN2_VL, vision_layers=2),
    Script("FP8 kv cache, generation", "examples/quantization_kv_cache/llama3_fp8_kv_example.py"),
)
"""What must run to its end."""

MORE = (
    Script(
        "vision, Gemma 3",
        "examples/multimodal_vision/gemma3_example.py",
        {"google/gemma-3-4b-it": "gemma-3-27b"},
        vision_layers=2,
    ),
    Script(
        "vision, LLaVA",
        "examples/multimodal_vision/llava_example.py",
        {"llava-hf/llava-1.5-7b-hf": "tests/measured/configs/llava.json"},
        vision_layers=2,
    ),
    Script(
        "vision, Qwen3-VL",
        "examples/multimodal_vision/qwen3_vl_example.py",
        {"Qwen/Qwen3-VL-8B-Instruct": "tests/measured/configs/qwen3-vl.json"},
    ),
    Script(
        "vision, Mistral 3",
        "examples/multimodal_vision/mistral3_example.py",
        {"mistralai/Mistral-Small-3.1-24B-Instruct-2503": "tests/rehearse/examples/mistral3.json"},
        vision_layers=2,
        # transformers 5.17's Pixtral processor returns a tensor, and LLM Compressor takes the batch off lists alone
        # (llmcompressor/transformers/data/base.py tokenize): the script's collator then makes five dimensions
        fails="Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [1, 1, 3, 392, 504]",
    ),
    Script(
        "vision and experts, Llama 4",
        "examples/multimodal_vision/llama4_example.py",
        {"meta-llama/Llama-4-Scout-17B-16E-Instruct": "llama-4-scout"},
        vision_layers=2,
        generates=False,
    ),
    Script(
        "NVFP4, mixture of experts",
        "examples/quantization_w4a4_fp4/qwen_30b_a3b.py",
        {"Qwen/Qwen3-30B-A3B": "qwen3-30b-a3b"},
    ),
    Script(
        "REAP",
        "examples/reap_expert_pruning/reap_qwen3_30b.py",
        {"Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b"},
    ),
)
"""What was tried beside them."""
