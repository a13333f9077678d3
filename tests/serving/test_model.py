"""What serving knows of a model, beside what its makers say."""

from pathlib import Path
from typing import Any

import pytest

from planner.errors import JobError, UnsupportedError
from planner.formats.tensors import Weight
from planner.job import Job
from planner.models.load import graph_of, load_built
from planner.serving.model import active_parameters, load_served, served_of


@pytest.mark.parametrize(
    ("name", "published", "with_table"),
    [
        ("deepseek-r1", 37e9, False),  # DeepSeek-V3 report: 37B activated for each token
        ("mixtral-8x7b", 12.9e9, True),  # Mixtral paper: 12.9B of 46.7B
        ("gpt-oss-20b", 3.61e9, False),  # gpt-oss model card, table 1: 3.61B active, unembedding but not embedding
        ("qwen3-30b-a3b", 3.3e9, True),  # Qwen3 model card: 3.3B activated
        ("llama-4-scout", 17e9, True),  # Llama 4 model card: 17B activated
    ],
)
def test_active_parameters_are_those_that_makers_publish(name: str, published: float, with_table: bool) -> None:
    """Makers differ in whether the embedding table counts; here it does not: one row of it is read."""
    served, _ = load_served(name)
    table = served.vocabulary * served.hidden_size
    assert served.active_parameters + table * with_table == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "gpt-oss-20b", "gemma-3-27b", "qwen2.5-vl-7b"])
def test_a_model_that_was_traced_for_a_compression_job_is_served_as_a_new_one(name: str) -> None:
    """Its experts were spread out for the trace, its rotary tables and attention used: nothing of that stays."""
    job = Job(samples=1, seq_len=512, images=1 if name == "qwen2.5-vl-7b" else 0)
    built = load_built(name, job.build)
    graph_of(built, job)
    (used, prefill), (new, expected) = served_of(built), load_served(name)
    assert used == new
    assert [prefill(n, 512, shards=s) for n, s in ((512, 1), (1, 1), (512, 2))] == [
        expected(n, 512, shards=s) for n, s in ((512, 1), (1, 1), (512, 2))
    ]


def test_a_dense_model_reads_all_but_its_embedding_table() -> None:
    served, _ = load_served("llama-3-8b")
    assert served.parameters == 8_030_261_248
    assert served.active_parameters == served.parameters - 128256 * 4096
    assert (served.layers, served.attention_heads, served.kv_heads) == (32, 32, 8)
    assert (served.experts, served.experts_per_token, served.max_positions) == (0, 0, 8192)
    assert not served.tied


def test_a_tied_table_is_the_head_and_is_read_whole() -> None:
    served, _ = load_served("qwen3-0.6b")
    assert served.tied
    assert served.active_parameters == served.parameters == 596_049_920


def test_the_vision_tower_is_not_read_for_a_token() -> None:
    served, _ = load_served("qwen2.5-vl-7b")
    vision = sum(w.elements for w in served.weights if w.unit in ("vision", "projector"))
    assert vision > 600e6
    assert served.active_parameters == served.parameters - vision - served.vocabulary * served.hidden_size


def test_weights_sum_to_the_parameters() -> None:
    served, _ = load_served("qwen3-30b-a3b")
    assert sum(weight.elements for weight in served.weights) == served.parameters == 30_532_122_624
    assert (served.experts, served.experts_per_token) == (128, 8)


def test_a_lookup_table_beside_the_embedding_is_not_read_either() -> None:
    """Gemma 3n keeps a table of embeddings for each layer, beside the one that is its head as well."""
    table = Weight(name="embed.weight", shape=(10, 4), classes=("Embedding",), unit="embedding")
    layers = Weight(name="per_layer.weight", shape=(10, 8), classes=("Scaled", "Embedding"), unit="embedding")
    linear = Weight(name="up.weight", shape=(4, 4), classes=("Linear",), unit="decoder", layer=0)
    expert = Weight(name="a.experts.*.up.weight", shape=(4, 4), classes=("Linear",), copies=8, layer=0)
    assert active_parameters((table, layers, linear, expert), 8, 2, "embed") == 40 + 16 + 2 * 16
    assert active_parameters((table, layers, linear, expert), 8, 2) == 16 + 2 * 16


def test_experts_in_one_parameter_are_routed_too() -> None:
    """Granite's experts stay fused: (experts, out, in)."""
    fused = Weight(name="moe.input_linear.weight", shape=(64, 8, 4), classes=("GraniteMoeHybridParallelExperts",))
    convolution = Weight(name="conv1d.weight", shape=(64, 1, 4), classes=("Conv1d",))
    assert active_parameters((fused, convolution), 64, 6) == 6 * 8 * 4 + 64 * 4


def test_the_dtype_is_one_that_models_compute_in() -> None:
    with pytest.raises(JobError, match="int8"):
        load_served("llama-3-8b", "int8")
    served, _ = load_served("mistral-7b", "float32")
    assert {t.dtype for s in served.graph.structures for t in s.parameters} == {"float32"}


def configured(folder: Path, model_type: str, **config: Any) -> str:
    """A config.json with every entry of its family, these set."""
    from transformers import AutoConfig

    path = folder / "config.json"
    path.write_text(AutoConfig.for_model(model_type, **config).to_json_string(use_diff=False))
    return str(path)


@pytest.mark.parametrize("model_type", ["whisper", "bart", "pegasus"])
def test_a_decoder_without_its_encoder_is_refused(model_type: str, tmp_path: Path) -> None:
    """WhisperForCausalLM is the decoder alone."""
    with pytest.raises(UnsupportedError, match=f"{model_type} has an encoder and a decoder"):
        load_served(configured(tmp_path, model_type=model_type))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "electra"])
def test_an_encoder_is_refused(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"{model_type} is an encoder"):
        load_served(configured(tmp_path, model_type=model_type))


@pytest.mark.parametrize("config", [{"model_type": "gpt_neox"}, {"model_type": "bert", "is_decoder": True}])
def test_a_decoder_whose_family_has_encoders_is_served(config: dict[str, Any], tmp_path: Path) -> None:
    """transformers' GPT-NeoX config says is_decoder: false as well."""
    served, _ = load_served(configured(tmp_path, num_hidden_layers=2, **config))
    assert served.kv_heads == served.attention_heads
