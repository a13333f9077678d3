"""EXL2 and EXL3."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config

from planner.errors import JobError, UnsupportedError
from planner.formats.exllama import HEADS, ExlMixture, exl3_tensors, formats, least_bits, parse
from planner.formats.registry import Format
from planner.formats.tensors import StoredModel
from planner.serving.model import load_served
from planner.serving.tensor_parallel import part_of
from tests.formats.full_size import served, stored
from tests.formats.weight_formats import find_weights


def parsed(text: str) -> Format:
    form = parse(text)
    assert form is not None
    return form


def layers_of(found: StoredModel) -> list[int]:
    """Bytes of the matrices of the decoder layers."""
    return [t.file_bytes for t in found.tensors if t.weight.unit == "decoder" and t.weight.is_linear]


@pytest.mark.parametrize(
    ("head", "bits"),
    [(2, 715026432), (3, 859410432), (4, 1161490432), (5, 1360137216), (6, 1663241216), (8, 2105609216)],
)
def test_a_head_takes_what_exllamav2_counts(head: int, bits: int) -> None:
    # exllamav2 conversion/qparams.py: qparams_headoptions[head].total_bits((8192, 32000)), evaluated
    assert HEADS[head].total_bits(8192, 32000) == bits


def test_the_smallest_options_take_what_exllamav2_counts() -> None:
    # qparams_attn[0][0].total_bits((8192, 1024)) and qparams_mlp[0][2].total_bits((28672, 8192)), evaluated
    attention = ExlMixture(groups=(64, 64), bits=(3, 2), shares=(0.05, 0.95))
    down = ExlMixture(groups=(32, 64, 64), bits=(6, 3, 2), shares=(0.05, 0.2, 0.75))
    assert attention.total_bits(8192, 1024) == 18028544
    assert down.total_bits(28672, 8192) == 580507728


@given(rows=st.integers(1, 2000).map(lambda n: 32 * n), columns=st.integers(1, 1000).map(lambda n: 32 * n))
def test_a_mixture_takes_no_less_than_its_lowest_and_all_rows_are_taken(rows: int, columns: int) -> None:
    for head, mixture in HEADS.items():
        weights = rows * columns
        assert mixture.total_bits(rows, columns) > min(mixture.bits) * weights
        assert mixture.total_bits(rows, columns) >= head * weights


@pytest.mark.parametrize("bits", ["2.55", "4.0", "6.0"])
def test_the_layers_have_the_bits_that_were_asked_for(bits: str) -> None:
    found = stored("llama-2-70b", parsed(f"exl2:{bits}"))
    weights = sum(w.elements for w in served("llama-2-70b").weights if w.unit == "decoder" and w.is_linear)
    assert 8 * sum(layers_of(found)) / weights == pytest.approx(float(bits), abs=1e-6)


@pytest.mark.parametrize("method", ["exl2", "exl3"])
def test_embeddings_are_16_bit_and_in_cpu_memory(method: str) -> None:
    found = stored("llama-3-8b", parsed(f"{method}:4.0"))
    assert found.cpu_bytes == 2 * 128256 * 4096
    assert not any(t.gpu_bytes for t in found.tensors if t.weight.unit == "embedding")


def test_a_tied_table_is_stored_as_it_is_and_again_as_head() -> None:
    found = stored("qwen3-0.6b", parsed("exl2:4.0"))
    (table,) = (t for t in found.tensors if t.weight.unit == "embedding")
    head = HEADS[6].total_bits(1024, 151936) // 8
    assert table.cpu_bytes == 2 * 151936 * 1024
    assert table.file_bytes == table.cpu_bytes + head
    assert table.gpu_bytes == head + 4 * 1024  # and the group map of its 1024 rows


def test_only_group_maps_are_on_the_gpu_and_not_on_disk() -> None:
    found = stored("llama-3-8b", parsed("exl2:4.0"))
    rows = sum(w.shape[1] * w.copies for w in served("llama-3-8b").weights if w.is_linear)
    assert found.gpu_bytes + found.cpu_bytes - found.file_bytes == 4 * rows


def test_routers_and_norms_stay_16_bit() -> None:
    for text in ("exl2:4.0", "exl3:4.0"):
        found = {t.weight.name: t.type for t in stored("mixtral-8x7b", parsed(text)).tensors}
        assert found["model.layers.0.mlp.gate.weight"] == "16-bit"
        assert found["model.layers.0.input_layernorm.weight"] == "16-bit"


def test_an_exl3_matrix_has_the_tensors_that_exllamav3_writes() -> None:
    # quantization_config.json of UnstableLlama/Qwen3.6-35B-A3B-DFlash-exl3-3.50bpw: `fc`, 10240 -> 2048, 4 bits, and
    # layers.0.self_attn.q_proj, 2048 -> 4096, 4 bits
    assert exl3_tensors(2048, 10240, Fraction(4)) == {"trellis": 10485760, "suh": 20480, "svh": 4096, "mcg": 4}
    assert exl3_tensors(4096, 2048, Fraction(4)) == {"trellis": 4194304, "suh": 4096, "svh": 8192, "mcg": 4}


def test_exl3_pads_sides_to_128() -> None:
    # modules/linear.py pad_to: gpt-oss has 2880
    assert exl3_tensors(2880, 2880, Fraction(3))["trellis"] == 2944 * 2944 * 3 // 8


def test_head_bits_are_6_unless_named() -> None:
    sizes = [stored("llama-3-8b", parsed(text)).file_bytes for text in ("exl3:4.0", "exl3:4.0:h6", "exl3:4.0:h8")]
    assert sizes[0] == sizes[1]
    assert sizes[2] - sizes[1] == 128256 * 4096 * 2 // 8
    assert parsed("exl3:4.0:h6").name == "exl3:4.0"
    assert parsed("EXL3:4.0:h16").name == "exl3:4.0:h16"


@pytest.mark.parametrize("text", ["exl2:1.9", "exl2:8.1", "exl3:0.9", "exl3:9", "exl2:4.0:h7", "exl3:4.0:h9", "exl2"])
def test_numbers_beyond_the_converters_are_refused(text: str) -> None:
    with pytest.raises(JobError):
        parse(text)


@pytest.mark.parametrize("text", ["exl2:", "exl2-4.0", "exl3:four", "exl2:4.0:8"])
def test_a_misspelt_name_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(JobError, match=r"exl2:4\.0"):
        parse(text)


def test_names_of_others_are_left_to_them() -> None:
    assert parse("Q4_K_M") is None


def test_less_than_the_smallest_options_is_refused_for_this_model() -> None:
    least = least_bits(served("llama-2-70b"))
    assert 2.2 < least < 2.25
    with pytest.raises(JobError, match=r"has 2\.22 bits"):
        stored("llama-2-70b", parsed("exl2:2.1"))
    assert stored("llama-2-70b", parsed("exl2:2.22")).file_bytes < stored("llama-2-70b", parsed("exl2:2.25")).file_bytes


@pytest.mark.parametrize(("model", "text"), [("deepseek-r1", "exl2:4.0"), ("llama-4-scout", "exl3:4.0")])
def test_models_without_code_in_the_engine_are_refused(model: str, text: str) -> None:
    with pytest.raises(UnsupportedError, match="has no code for"):
        stored(model, parsed(text))


def test_the_common_averages_are_formats() -> None:
    names = [form.name for form in formats()]
    assert {"exl2:2.55", "exl2:4.0", "exl3:2.0", "exl3:6.0"} <= set(names)
    assert len(names) == len(set(names))
    assert all(parsed(form.name).bits == form.bits for form in formats())


@pytest.mark.parametrize("name", ["exl2:4.0", "gptq", "awq", "W4A16", "FP8_BLOCK"])
def test_a_format_that_leaves_every_matrix_of_gpt2_is_refused(name: str, tmp_path: Path) -> None:
    # transformers' Conv1D is no Linear
    GPT2Config().save_pretrained(tmp_path)
    gpt2 = load_served(str(tmp_path / "config.json"))[0]
    with pytest.raises(UnsupportedError, match=r"known for Linears alone, .* hold none: Conv1D instead"):
        find_weights(name).store(gpt2)
    assert find_weights("nf4").store(gpt2).bits_per_weight < 9  # bitsandbytes takes Conv1D for a Linear
    assert {part_of(w, gpt2, 2) for w in gpt2.weights if ".attn.c_attn" in w.name} == {Fraction(1, 2)}
