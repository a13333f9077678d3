"""bitsandbytes: what is quantized, and what each quantized matrix takes."""

import pytest

from planner.formats.bitsandbytes import formats, four_bit_tensors, quantized_weights
from planner.formats.registry import Format
from tests.formats.full_size import served, stored
from tests.formats.weight_formats import find_weights

# state_dict() of bitsandbytes 0.50.2 Linear4bit, quantized on a CPU: rows, columns, nested, and bytes of its tensors
# (the JSON record left out where it holds a number whose digits vary).
RECORDED = [
    (256, 512, False, {"weight": 65536, "absmax": 8192, "quant_map": 64, "quant_state": 80}),
    (3, 65, False, {"weight": 98, "absmax": 16, "quant_map": 64, "quant_state": 77}),
    (1024, 4096, False, {"weight": 2097152, "absmax": 262144, "quant_map": 64, "quant_state": 82}),
    (256, 512, True, {"weight": 65536, "absmax": 2048, "quant_map": 64, "nested_absmax": 32, "nested_quant_map": 1024}),
    (3, 65, True, {"weight": 98, "absmax": 4, "quant_map": 64, "nested_absmax": 4, "nested_quant_map": 1024}),
    (1024, 4096, True, {"absmax": 65536, "nested_absmax": 1024, "nested_quant_map": 1024}),
]


@pytest.mark.parametrize(("rows", "columns", "nested", "sizes"), RECORDED)
def test_a_matrix_takes_what_bitsandbytes_writes(rows: int, columns: int, nested: bool, sizes: dict[str, int]) -> None:
    ours = four_bit_tensors(rows, columns, kind="nf4", nested=nested)
    assert {name: ours[name] for name in sizes} == sizes


@pytest.mark.parametrize(("shape", "length"), [((256, 512), 170), ((3, 65), 164), ((1024, 4096), 173)])
def test_the_json_record_of_double_quantization_is_off_by_a_few_digits_at_most(
    shape: tuple[int, int], length: int
) -> None:
    assert abs(four_bit_tensors(*shape, nested=True)["quant_state"] - length) <= 4


def test_double_quantization_saves_0_373_bits_a_weight() -> None:
    # QLoRA (arXiv 2305.14314), section 3: 0.5 bits of scales become 0.127
    once, twice = (sum(four_bit_tensors(8192, 8192, nested=nested).values()) for nested in (False, True))
    assert 8 * (once - twice) / 8192**2 == pytest.approx(0.373, abs=1e-3)


def test_llm_int8_has_a_byte_for_each_weight_and_four_for_each_row() -> None:
    model = served("llama-3-8b")
    chosen = [w for w in model.weights if w.name in quantized_weights(model)]
    rest = sum(2 * w.elements for w in model.weights) - sum(2 * w.elements for w in chosen)
    expected = rest + sum(w.elements + 4 * w.shape[0] * w.copies for w in chosen)
    found = stored("llama-3-8b", find_weights("llm.int8"))
    assert found.gpu_bytes == expected
    assert found.file_bytes == expected + len(chosen)  # Linear8bitLt writes one byte of weight_format


def test_the_linears_of_the_layers_are_quantized_and_head_and_embeddings_are_not() -> None:
    model = served("llama-3-8b")
    chosen = quantized_weights(model)
    assert len(chosen) == 32 * 7
    assert "lm_head.weight" not in chosen and "model.embed_tokens.weight" not in chosen


def test_a_tied_table_stays_16_bit() -> None:
    assert "model.embed_tokens.weight" not in quantized_weights(served("qwen3-0.6b"))
    assert served("qwen3-0.6b").tied


def test_fused_experts_stay_16_bit_and_the_notes_say_so() -> None:
    # transformers 5 MixtralExperts holds gate_up_proj and down_proj as 3-D parameters: no Linear to replace
    model = served("mixtral-8x7b")
    assert not any(".experts." in name for name in quantized_weights(model))
    found = stored("mixtral-8x7b", find_weights("nf4-dq"))
    assert found.gpu_bytes > 1.9 * model.parameters
    assert any("97 %" in note and "16-bit" in note for note in found.notes)


def test_llama_4_experts_are_spread_out_and_quantized() -> None:
    # transformers quantizers/base.py MODULES_TO_PATCH_FOR_QUANTIZATION: Llama4TextExperts
    found = stored("llama-4-scout", find_weights("nf4-dq"))
    assert found.bits_per_weight < 5
    assert any("spreads" in note for note in found.notes)


@pytest.mark.parametrize("form", [f for f in formats() if f.name != "llm.int8"], ids=lambda form: form.name)
def test_the_bits_of_a_format_are_those_of_a_large_matrix(form: Format) -> None:
    nested = form.name.endswith("-dq")
    assert form.bits is not None
    bits = 8 * sum(four_bit_tensors(28672, 8192, nested=nested).values()) / (28672 * 8192)
    assert bits == pytest.approx(float(form.bits), abs=1e-3)
