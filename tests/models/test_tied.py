"""Tied or not, as from_pretrained decides it with the checkpoint at hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.job import Build
from planner.models.build import build_model, build_on_cpu, parameter_count, reading_notes
from planner.models.source import ModelSource

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL: dict[str, dict[str, Any]] = {
    "mistral3": {
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {"model_type": "pixtral", **VISION},
    },
    "internvl": {"text_config": {"model_type": "qwen2", **TEXT}, "vision_config": VISION},
}
# mistralai/Mistral-Small-3.1-24B-Instruct-2503, config.json without what has no part in the sizes
MISTRAL_SMALL: dict[str, Any] = {
    "model_type": "mistral3",
    "architectures": ["Mistral3ForConditionalGeneration"],
    "multimodal_projector_bias": False,
    "spatial_merge_size": 2,
    "text_config": {
        "model_type": "mistral",
        "head_dim": 128,
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "vocab_size": 131072,
    },
    "vision_config": {
        "model_type": "pixtral",
        "head_dim": 64,
        "hidden_size": 1024,
        "image_size": 1540,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
}


def source(model_type: str, **text: Any) -> ModelSource:
    config = {"model_type": model_type, **SMALL[model_type]}
    return ModelSource(name="toy", config={**config, "text_config": {**config["text_config"], **text}})


def is_tied(model: Any) -> bool:
    return bool(model.get_output_embeddings().weight is model.get_input_embeddings().weight)


def loaded_again(asked: ModelSource, folder: Path, head: bool) -> Any:
    """What from_pretrained makes of a checkpoint with or without a head, and of a config.json as it was asked for."""
    saved = {**asked.config, "tie_word_embeddings": not head}
    model = build_on_cpu(ModelSource(name="saved", config=saved), Build(dtype="float32"))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number)
    model.save_pretrained(folder)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**asked.config, "architectures": written["architectures"]}), encoding="utf-8")
    return type(model).from_pretrained(folder)


def test_mistral_small_has_its_published_24_billion_parameters() -> None:
    model: Any = build_model(ModelSource(name="mistral-small-3.1", config=MISTRAL_SMALL), Build())
    assert not is_tied(model)
    assert parameter_count(model) == 24_011_361_280


@pytest.mark.parametrize("model_type", SMALL)
@pytest.mark.parametrize("tied", [False, True])
def test_without_an_entry_of_its_own_a_composite_is_tied_as_its_text_part_says(
    model_type: str, tied: bool, tmp_path: Path
) -> None:
    asked = source(model_type, tie_word_embeddings=tied)
    model = build_model(asked, Build())
    assert is_tied(model) == tied
    assert is_tied(loaded_again(asked, tmp_path, head=not tied)) == tied
    assert ["a head of its own" in note for note in reading_notes(asked, model)] == ([] if tied else [True])


@pytest.mark.parametrize("tied", [False, True])
def test_an_entry_of_its_own_counts_and_not_the_text_parts(tied: bool) -> None:
    asked = source("mistral3", tie_word_embeddings=not tied)
    asked.config["tie_word_embeddings"] = tied
    model = build_model(asked, Build())
    assert is_tied(model) == tied
    assert reading_notes(asked, model) == ()


def test_a_model_without_parts_is_tied_as_transformers_default_says() -> None:
    gemma = ModelSource(name="toy", config={"model_type": "gemma", **TEXT})
    assert is_tied(build_model(gemma, Build()))
