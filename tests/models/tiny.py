"""A Llama of four small layers, loaded from its config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.load import load_model

HEADS, KV_HEADS, WIDTH, MLP, HEAD_DIM = 4, 2, 512, 768, 128
TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": 4,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": 100,
    "tie_word_embeddings": False,
}
SEQ, BATCH = 600, 2
Loader = Callable[..., ModelGraph]


@pytest.fixture
def tiny(tmp_path: Path) -> Loader:
    """Loads the tiny model under job options."""

    def load(config: dict[str, Any] = TINY, **options: Any) -> ModelGraph:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return load_model(str(path), Job(**({"samples": BATCH, "batch_size": BATCH, "seq_len": SEQ} | options)))

    return load
