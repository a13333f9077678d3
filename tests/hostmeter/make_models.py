#!/usr/bin/env python3
"""Write checkpoints with random bfloat16 weights, in safetensors, to look at how they load and what a job does to them.

    make_models.py [NAME ...]      all of them without a name

They lie in the folder `models` under $HOSTMETER (default: .instruments/hostmeter in the repository, which git ignores).
"""

import json
import os
import sys
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from resident import FOLDER, HERE
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

PRESETS = HERE.parent.parent / "planner" / "models" / "presets"
LLAMA_1B = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
# Qwen3-30B-A3B made small: 32 experts of 768 in 12 layers
MOE_1B = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "moe_intermediate_size": 768,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 12,
    "max_window_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}


SHARDED = "300MB"
"""Size of the files of a checkpoint whose name says that it has several."""


def configs() -> dict[str, dict[str, Any]]:
    """Each checkpoint's config by its name."""
    qwen, llama, moe = _preset("qwen3-0.6b"), LLAMA_1B, _preset("qwen3-30b-a3b") | MOE_1B
    return {
        "qwen3-0.6b": qwen,
        "qwen3-0.6b-sharded": qwen,
        "qwen3-0.6b-l8": _short(qwen, 8),
        "qwen3-0.6b-l2": _short(qwen, 2),
        "llama-3.2-1b": llama,
        "llama-3.2-1b-l4": _short(llama, 4),
        "llama-3.2-1b-l1": _short(llama, 1),
        "qwen3-moe-1b": moe,
        "qwen3-moe-l3": _short(moe, 3),
        "qwen3-moe-l1e8": _short(moe, 1) | {"num_experts": 8},
    }


def _preset(name: str) -> dict[str, Any]:
    config = json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8"))["config"]
    return {key: value for key, value in config.items() if key not in ("torch_dtype", "architectures")}


def _short(config: dict[str, Any], layers: int) -> dict[str, Any]:
    depths = {key: layers for key in ("num_hidden_layers", "max_window_layers") if key in config}
    return config | depths


def make(name: str, values: dict[str, Any]) -> None:
    """Write one checkpoint."""
    config = CONFIG_MAPPING[values["model_type"]](**{k: v for k, v in values.items() if k != "model_type"})
    config.dtype = torch.bfloat16
    torch.set_default_dtype(torch.bfloat16)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.set_default_dtype(torch.float32)
    folder = FOLDER / "models" / name
    model.save_pretrained(folder, max_shard_size=SHARDED if name.endswith("-sharded") else "50GB")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    print(f"{name}: {sum(weight.numel() for weight in model.parameters()):,} parameters, {size:,} bytes in {folder}")


def main(wanted: list[str]) -> None:
    """Write those that are named, or all."""
    known = configs()
    if unknown := set(wanted) - set(known):
        raise SystemExit(f"make_models.py: no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in wanted or known:
        make(name, known[name])


if __name__ == "__main__":
    main(sys.argv[1:])
