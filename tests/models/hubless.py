"""A config too small to matter, and a Hub that cannot be reached unless a test opens it."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

TINY: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "layer_types": ["full_attention"] * 3 + ["sliding_attention"],
    "sliding_window": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
