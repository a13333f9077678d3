"""What a config.json does not say: an error where transformers would take another model's size, else a note."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.errors import ModelError
from planner.job import Build
from planner.models.build import build_model, model_config, reading_notes, text_config
from planner.models.source import load_source

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 32,
}
GPT2: dict[str, Any] = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 32}
BLOOM: dict[str, Any] = {"model_type": "bloom", "n_embed": 16, "n_layer": 3, "n_head": 4, "vocab_size": 32}
# llava-hf/llava-1.5-7b-hf leaves Llama's own sizes out of its text_config
LLAVA: dict[str, Any] = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "num_attention_heads": 16},
}


@pytest.fixture
def sizes(tmp_path: Path) -> Any:
    """Width and depth of the text decoder that such a config.json is read as."""

    def read(config: dict[str, Any]) -> tuple[int, int]:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        text = text_config(model_config(load_source(str(path)), Build()))
        return text.hidden_size, text.num_hidden_layers

    return read


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (without(LLAMA, "hidden_size"), "hidden_size is missing; transformers would take its default, 4096"),
        (without(LLAMA, "num_hidden_layers"), "num_hidden_layers is missing; transformers would take its default, 32"),
        (without(GPT2, "n_embd"), "n_embd is missing; transformers would take its default, 768"),
        (without(GPT2, "n_layer"), "n_layer is missing; transformers would take its default, 12"),
        ({**without(LLAMA, "hidden_size"), "n_embd": 16}, "hidden_size is missing"),
        (without(BLOOM, "n_embed"), "hidden_size is missing; transformers would take its default, 64"),
        (
            without(LLAVA, "text_config"),
            "text_config is missing, and hidden_size and num_hidden_layers of the text decoder",
        ),
        ({**LLAVA, "text_config": {}}, "text_config is missing"),
        # layer_types do not fit the default depth: transformers would speak of them
        (
            {**without(LLAMA, "num_hidden_layers"), "model_type": "qwen3", "layer_types": ["full_attention"] * 2},
            "num_hidden_layers is missing; transformers would take its default, 32",
        ),
        ({**LLAMA, "model_type": "mistral3"}, "text_config is missing, and hidden_size and num_hidden_layers"),
    ],
)
def test_a_size_that_would_be_another_models_is_an_error(sizes: Any, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        sizes(config)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA, (16, 2)),
        (GPT2, (16, 2)),
        ({**without(GPT2, "n_embd", "n_layer"), "hidden_size": 16, "num_hidden_layers": 2}, (16, 2)),
        (BLOOM, (16, 3)),
        ({**LLAMA, "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32}, (4096, 32)),
        ({"model_type": "qwen2_5_vl", **without(LLAMA, "model_type"), "vision_config": {"depth": 2}}, (16, 2)),
        (LLAVA, (4096, 32)),
    ],
)
def test_sizes_are_read_under_every_name_that_transformers_reads(
    sizes: Any, config: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert sizes(config) == expected


def test_what_a_text_part_leaves_to_its_family_is_a_note(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAVA), encoding="utf-8")
    source = load_source(str(path))
    (note,) = reading_notes(source, build_model(source, Build()))
    assert "text_config" in note
    assert "hidden_size 4096 and num_hidden_layers 32" in note


@pytest.mark.parametrize(
    ("config", "notes"),
    [
        (LLAMA, ()),
        (
            without(LLAMA, "intermediate_size"),
            ("config.json leaves sizes to transformers' defaults: planned with intermediate_size 11008.",),
        ),
        (
            without({**LLAMA, "hidden_size": 64}, "intermediate_size", "num_attention_heads", "vocab_size"),
            (
                "config.json leaves sizes to transformers' defaults: planned with intermediate_size 11008, "
                "num_attention_heads 32 and vocab_size 32000.",
            ),
        ),
        (without(GPT2, "n_head"), ("config.json leaves sizes to transformers' defaults: planned with n_head 12.",)),
        (
            {**LLAVA, "text_config": {**LLAVA["text_config"], **without(LLAMA, "intermediate_size")}},
            (
                "text_config of config.json leaves sizes to transformers' defaults: "
                "planned with intermediate_size 11008.",
            ),
        ),
    ],
)
def test_a_size_that_models_of_a_family_often_share_is_a_note(
    tmp_path: Path, config: dict[str, Any], notes: tuple[str, ...]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    source = load_source(str(path))
    width = {"n_embd": 24} if config["model_type"] == "gpt2" else {}  # 12 heads divide it
    source = replace(source, config={**source.config, **width})
    assert reading_notes(source, build_model(source, Build())) == notes


def test_presets_leave_nothing_out() -> None:
    for name in ("qwen2.5-vl-7b", "gemma-3-27b", "llama-4-scout", "command-a-vision"):
        source = load_source(name)
        assert reading_notes(source, build_model(source, Build(layers=1, vision_layers=1))) == ()


@pytest.mark.parametrize("path", sorted(Path("tests/measured/configs").glob("*.json")), ids=lambda path: path.stem)
def test_measured_configs_are_read_as_they_were_measured(path: Path) -> None:
    source = load_source(str(path))
    build_model(source, Build(layers=1))
    model_config(source, Build())
