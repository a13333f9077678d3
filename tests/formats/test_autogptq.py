"""GPTQ and AWQ checkpoints."""

import pytest

from planner.errors import JobError, UnsupportedError
from planner.formats.autogptq import formats, matrix_tensors, parse
from planner.formats.registry import Format
from tests.formats.full_size import served, stored
from tests.formats.weight_formats import find_weights


def test_a_gptq_matrix_has_the_tensors_of_auto_gptq() -> None:
    # AutoGPTQ QuantLinear.__init__ for 4096 inputs, 14336 outputs, 4 bits, groups of 128: qweight int32 [512, 14336],
    # qzeros int32 [32, 1792], scales fp16 [32, 14336], g_idx int32 [4096]
    assert matrix_tensors("gptq", 14336, 4096, 4, 128) == {
        "qweight": 512 * 14336 * 4,
        "qzeros": 32 * 1792 * 4,
        "scales": 32 * 14336 * 2,
        "g_idx": 4096 * 4,
    }


def test_an_awq_matrix_differs_by_the_order_it_does_not_keep() -> None:
    gptq, awq = (matrix_tensors(method, 4096, 4096, 4, 128) for method in ("gptq", "awq"))
    assert gptq.pop("g_idx") == 4 * 4096
    assert gptq == awq


@pytest.mark.parametrize("name", ["gptq-4bit-64g", "AWQ-4bit-32g", "gptq-2bit-1024g"])
def test_bits_and_groups_can_be_named(name: str) -> None:
    form = parse(name)
    assert form is not None and form.name == name.lower()


@pytest.mark.parametrize("name", ["gptq-5bit-128g", "awq-8bit-128g", "gptq-4bit-100g"])
def test_bits_and_groups_that_the_format_has_not_are_refused(name: str) -> None:
    with pytest.raises(JobError, match="groups of"):
        parse(name)


def test_other_names_are_left_to_others() -> None:
    assert parse("Q4_K_M") is None


def test_groups_that_do_not_divide_a_matrix_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="128 do not divide the 2880"):
        stored("gpt-oss-20b", find_weights("awq"))


@pytest.mark.parametrize("form", list(formats()), ids=lambda form: form.name)
def test_head_embeddings_and_routers_stay_16_bit(form: Format) -> None:
    kept = [t for t in stored("qwen3-30b-a3b", form).tensors if t.type == "16-bit"]
    names = {t.weight.name for t in kept}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.gate.weight"} <= names
    assert not any("proj" in name for name in names)
    assert sum(w.elements for w in served("qwen3-30b-a3b").weights) == 30_532_122_624
