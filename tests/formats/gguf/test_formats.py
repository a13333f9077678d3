"""GGUF file types as weight formats."""

from fractions import Fraction

import pytest

from planner.errors import JobError, UnsupportedError
from planner.formats.gguf.filetypes import FILE_TYPES
from planner.formats.gguf.formats import formats, parse
from planner.formats.gguf.header import ALIGNMENT, header_bytes, tokenizer_bytes
from planner.formats.gguf.mixture import Tensor
from planner.formats.gguf.types import blocks, tensor_bytes
from planner.formats.registry import Format
from tests.formats.full_size import served, stored

NAMED = {name: form for form in formats() for name in (form.name, *form.aliases)}


def made(name: str) -> Format:
    form = NAMED.get(name) or parse(name)
    assert form is not None, name
    return form


def test_there_is_a_format_for_every_file_type_and_every_ggml_type() -> None:
    known = {f.name for f in FILE_TYPES if f.base in blocks()}
    assert known - {"F16", "BF16", "F32"} <= set(NAMED)
    assert {f"ggml:{kind}" for kind in ("Q4_0", "Q6_K", "IQ2_XS", "TQ1_0", "MXFP4", "NVFP4", "BF16")} <= set(NAMED)
    assert {form.family for form in formats()} == {"gguf"}


def test_names_are_told_apart_whatever_their_case() -> None:
    names = [name.lower() for form in formats() for name in (form.name, *form.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("alias", "name"), [("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M"), ("Q3_K", "Q3_K_M")])
def test_aliases_are_those_of_llama_quantize(alias: str, name: str) -> None:
    assert NAMED[alias] is NAMED[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("IQ2_XS", "2.3125"), ("Q4_K_M", "4.5"), ("Q8_0", "8.5"), ("Q2_K", "2.625"), ("gguf:F16", "16")],
)
def test_bits_are_those_of_the_base_type(name: str, expected: str) -> None:
    assert NAMED[name].bits == Fraction(expected)


@pytest.mark.parametrize("model", ["llama-3-8b", "deepseek-r1", "gemma-3-27b", "gpt-oss-20b"])
@pytest.mark.parametrize("name", ["Q4_K_M", "IQ2_XS", "Q8_0", "ggml:Q4_0", "gguf:BF16"])
def test_every_weight_is_stored_once_and_the_parts_are_the_whole(model: str, name: str) -> None:
    found = stored(model, made(name))
    assert [t.weight for t in found.tensors] == list(served(model).weights)
    assert found.file_bytes == sum(t.file_bytes for t in found.tensors) + found.other_file_bytes
    assert all(t.file_bytes > 0 and t.gpu_bytes + t.cpu_bytes >= t.file_bytes for t in found.tensors)


def test_a_latents_projection_names_both_its_types() -> None:
    found = stored("deepseek-r1", made("Q4_K_M"))
    split = next(t for t in found.tensors if t.weight.name.endswith("layers.7.self_attn.kv_b_proj.weight"))
    assert split.type == "Q5_0 and Q4_K"
    assert split.file_bytes == tensor_bytes("Q5_0", (128, 512, 128)) + tensor_bytes("Q4_K", (128, 128, 512))


def test_the_token_embedding_stays_on_the_cpu() -> None:
    found = stored("llama-3-8b", made("Q4_K_M"))
    (embedding,) = [t for t in found.tensors if t.cpu_bytes]
    assert embedding.weight.unit == "embedding" and embedding.type == "Q4_K"
    assert (embedding.gpu_bytes, embedding.cpu_bytes) == (0, 128256 * 4096 * 9 // 16)
    assert found.gpu_bytes == sum(t.file_bytes for t in found.tensors) - embedding.cpu_bytes


def test_a_tied_embedding_is_on_both_and_in_the_file_once() -> None:
    found = stored("gemma-3-27b", made("Q4_K_M"))
    (embedding,) = [t for t in found.tensors if t.cpu_bytes]
    assert embedding.type == "Q6_K"
    assert embedding.gpu_bytes == embedding.cpu_bytes == embedding.file_bytes
    assert found.gpu_bytes == sum(t.file_bytes for t in found.tensors)


def test_experts_that_are_in_blocks_already_stay_so() -> None:
    found = stored("gpt-oss-20b", made("Q4_K_M"))
    assert {t.type for t in found.tensors if t.weight.is_expert and t.weight.name.endswith("weight")} == {"MXFP4"}
    assert any("refuses to requantize" in note for note in found.notes)


def test_a_type_without_a_stand_in_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"Q1_0: llama\.cpp has no stand-in for rows of 2880"):
        stored("gpt-oss-20b", made("Q1_0"))


def test_an_importance_matrix_moves_what_it_should() -> None:
    plain, with_matrix = (stored("llama-3-8b", made(name)) for name in ("Q4_0", "Q4_0:imatrix"))
    changed = [b.weight.name for a, b in zip(plain.tensors, with_matrix.tensors, strict=True) if a.type != b.type]
    assert changed == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(4)]
    assert stored("llama-3-8b", made("IQ4_XS:static")).file_bytes > stored("llama-3-8b", made("IQ4_XS")).file_bytes


def test_types_that_need_an_importance_matrix_are_refused_without() -> None:
    with pytest.raises(JobError, match="does not make IQ2_XS without an importance matrix"):
        parse("IQ2_XS:static")


def test_names_that_are_not_gguf_are_left_to_other_families() -> None:
    assert parse("nf4") is None and parse("Q4_K_M") is None and parse("gguf:nonsense") is None
    assert made("gguf:q4_k_m").name == "Q4_K_M"
    assert made("gguf:f16").bits == 16


def test_padding_and_infos_are_counted_to_the_byte() -> None:
    tensors = [Tensor(name="output_norm.weight", shape=(5,), type="F32")]
    # 24 fixed, an info of 8 + 18 + 4 + 8 + 4 + 8, a tokenizer, up to the next 32, and 20 bytes padded to 32.
    head = 24 + 50 + tokenizer_bytes(32000)
    assert header_bytes(tensors, [20], 32000) == head + -head % ALIGNMENT + 12


def test_the_tokenizer_is_labelled_measured_or_estimated() -> None:
    assert any("as measured" in note for note in stored("llama-3-8b", made("Q4_K_M")).notes)
    assert any("estimated at 39 bytes per token" in n for n in stored("gpt-oss-20b", made("Q4_K_M")).notes)
