"""GGUF tensors of real models, as llama.cpp's converter writes them."""

from dataclasses import replace
from math import prod

import pytest

from planner.formats.gguf.architectures import architecture
from planner.formats.gguf.names import gguf_model
from planner.formats.gguf.roles import role_name
from planner.formats.tensors import Weight
from tests.formats.full_size import served
from tests.formats.gguf.recordings import recording

PRESETS = (
    "llama-3-8b", "mixtral-8x7b", "deepseek-r1", "gpt-oss-20b", "llama-4-scout", "qwen3-30b-a3b", "gemma-3-27b",
    "qwen2.5-vl-7b", "qwen2.5-7b", "command-a-vision", "qwen3-0.6b",
)  # fmt: skip


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in gguf_model(served(model)).text}


@pytest.mark.parametrize("model", PRESETS)
def test_no_weight_is_lost_or_counted_twice(model: str) -> None:
    written = gguf_model(served(model)).written
    assert sum(prod(w.tensor.shape) for w in written) == served(model).parameters
    names = [w.tensor.name for w in written]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("model", PRESETS)
def test_every_tensor_of_a_preset_has_a_gguf_name(model: str) -> None:
    assert not [note for note in gguf_model(served(model)).notes if "GGUF name" in note or "does not know" in note]


@pytest.mark.parametrize("model", ["llama-3-8b", "deepseek-r1", "gpt-oss-20b", "gemma-3-27b"])
def test_recordings_were_made_of_these_tensors(model: str) -> None:
    made = gguf_model(served(model))
    assert made.hyper == recording(model).hyper
    assert sorted(made.text, key=lambda t: t.name) == sorted(recording(model).tensors, key=lambda t: t.name)


def test_experts_of_a_layer_are_one_tensor() -> None:
    assert shapes("mixtral-8x7b")["blk.31.ffn_down_exps.weight"] == (8, 4096, 14336)
    assert shapes("llama-4-scout")["blk.0.ffn_gate_exps.weight"] == (16, 8192, 5120)


def test_the_latents_projection_is_split_into_keys_and_values() -> None:
    made = shapes("deepseek-r1")
    # As published files have them: attn_k_b [128, 512, 128], attn_v_b [512, 128, 128] in ggml's order of axes.
    assert made["blk.60.attn_k_b.weight"] == (128, 512, 128)
    assert made["blk.60.attn_v_b.weight"] == (128, 128, 512)
    assert not any("kv_b" in name for name in made)


def test_an_architecture_that_keeps_the_latents_projection_whole_has_it_whole() -> None:
    # conversion/minicpm.py MiniCPM3Model splits nothing; gguf-py lists attn_kv_b alone for it.
    deepseek = served("deepseek-r1")
    names = {t.name for t in gguf_model(replace(deepseek, model_type="minicpm3")).text}
    assert "blk.7.attn_kv_b.weight" in names and "blk.7.attn_k_b.weight" not in names


def test_a_model_that_llama_cpp_does_not_know_is_said_to_be_guessed() -> None:
    made = gguf_model(replace(served("llama-3-8b"), model_type="unheard_of"))
    assert made.notes == (
        "llama.cpp's converter does not know unheard_of: tensors are taken for what their names say.",
    )
    known = {t.name for t in gguf_model(served("llama-3-8b")).text if len(t.shape) > 1}
    assert {t.name for t in made.text if len(t.shape) > 1} == known


def test_a_tied_model_has_no_head_tensor() -> None:
    assert "output.weight" not in shapes("gemma-3-27b")
    assert "output.weight" in shapes("llama-3-8b")


def test_vectors_and_routers_are_single_precision() -> None:
    kinds = {t.name: t.type for t in gguf_model(served("gpt-oss-20b")).text}
    assert kinds["blk.0.ffn_gate_inp.weight"] == kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_up_exps.bias"] == "F32"
    assert kinds["blk.0.ffn_up_exps.weight"] == "MXFP4"
    assert kinds["blk.0.attn_q.weight"] == "F16"


def test_the_vision_part_is_in_a_file_of_its_own() -> None:
    written = gguf_model(served("gemma-3-27b")).written
    vision = [w for w in written if w.vision]
    assert {w.weight.unit for w in vision} == {"vision", "projector"}
    assert {w.tensor.type for w in vision} == {"F16", "F32"}
    # mmproj-model-f16.gguf of Hugging Face: ggml-org/gemma-3-27b-it-GGUF: 858 MB
    size = sum(prod(w.tensor.shape) * {"F16": 2, "F32": 4}[w.tensor.type] for w in vision)
    assert size / 1e6 == pytest.approx(858, rel=0.01)


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [("llama", "llama"), ("mistral", "llama"), ("mixtral", "llama"), ("qwen2", "qwen2"), ("qwen3_moe", "qwen3moe"),
     ("deepseek_v3", "deepseek2"), ("gpt_oss", "gpt-oss"), ("gemma3_text", "gemma3"), ("llama4_text", "llama4"),
     ("phi3", "phi3"), ("gpt_neox", "gptneox"), ("falcon", "falcon"), ("cohere2", "cohere2"), ("glm4_moe", "glm4moe"),
     ("qwen2_5_vl_text", "qwen2vl"), ("zamba2", None)],
)  # fmt: skip
def test_architectures_of_llama_cpp(model_type: str, expected: str | None) -> None:
    assert architecture(model_type) == expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.3.self_attn.q_proj.weight", (8, 8), "blk.3.attn_q.weight"),
        ("model.layers.3.attn.Wqkv.weight", (24, 8), "blk.3.model.layers.3.attn.Wqkv.weight"),
        ("model.layers.3.mlp.down_proj.weight", (8, 32), "blk.3.ffn_down.weight"),
        ("model.layers.3.mlp.experts.*.up_proj.weight", (32, 8), "blk.3.ffn_up_exps.weight"),
        ("model.layers.3.mlp.shared_expert.up_proj.weight", (32, 8), "blk.3.ffn_up_shexp.weight"),
        ("model.layers.3.mlp.gate.weight", (8, 8), "blk.3.ffn_gate_inp.weight"),
        ("transformer.h.3.attn.c_proj.weight", (8, 8), "blk.3.attn_output.weight"),
        ("transformer.h.3.mlp.c_proj.weight", (8, 8), "blk.3.ffn_down.weight"),
    ],
)
def test_unknown_architectures_are_read_by_their_names(name: str, shape: tuple[int, ...], expected: str) -> None:
    assert role_name(Weight(name=name, shape=shape, layer=3, unit="decoder")) == expected
