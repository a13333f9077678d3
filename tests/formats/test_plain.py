"""Flat widths, and weights that a format leaves as they are."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.formats.plain import formats, keep, packed_bytes, parse
from planner.formats.registry import Format
from planner.formats.tensors import Weight
from tests.formats.full_size import served, stored
from tests.formats.weight_formats import find_weights


@pytest.mark.parametrize(("name", "eighths"), [("fp32", 32), ("fp16", 16), ("bf16", 16), ("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("model", ["llama-3-8b", "qwen3-0.6b", "qwen3-30b-a3b"])
def test_a_flat_width_is_parameters_times_bits(model: str, name: str, eighths: int) -> None:
    found = stored(model, find_weights(name))
    assert found.gpu_bytes == found.file_bytes == served(model).parameters * eighths // 8
    assert found.bits_per_weight == pytest.approx(eighths)


@pytest.mark.parametrize("form", list(formats()), ids=lambda form: form.name)
def test_the_bits_of_a_plain_format_are_those_of_every_weight(form: Format) -> None:
    assert form.bits is not None
    assert stored("llama-3-8b", form).bits_per_weight == pytest.approx(float(form.bits))


def test_a_trillion_parameters_at_2_3125_bits_are_289_1_gb_and_269_2_gib() -> None:
    size = packed_bytes(10**12, Fraction("2.3125"))
    assert size == 289_062_500_000
    assert (round(size / 10**9, 1), round(size / 2**30, 1)) == (289.1, 269.2)


@given(elements=st.integers(0, 10**12), bits=st.fractions(0, 64))
def test_packing_rounds_up_to_one_byte_and_no_further(elements: int, bits: Fraction) -> None:
    exact = elements * bits / 8
    assert 0 <= packed_bytes(elements, bits) - exact < 1


def test_a_flat_width_under_16_bits_says_that_no_engine_stores_it() -> None:
    assert "No engine" in stored("llama-3-8b", find_weights("int4")).notes[0]
    assert not stored("llama-3-8b", find_weights("bf16")).notes


def test_a_kept_tensor_is_on_one_side_only() -> None:
    weight = Weight(name="model.embed_tokens.weight", shape=(10, 4), unit="embedding")
    assert (keep(weight, 2).gpu_bytes, keep(weight, 2).cpu_bytes) == (80, 0)
    assert (keep(weight, 2, on_cpu=True).gpu_bytes, keep(weight, 2, on_cpu=True).cpu_bytes) == (0, 80)


def test_nothing_plain_is_parsed() -> None:
    assert parse("int4") is None
