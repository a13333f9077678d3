"""The mixtures, tensor by tensor, against llama.cpp's own quantizer at full size."""

import pytest

from planner.errors import UnsupportedError
from planner.formats.gguf.filetypes import FILE_TYPES
from planner.formats.gguf.mixture import Tensor, allows_quantization, category, fallback, tensor_types
from planner.formats.gguf.rules import Hyper
from planner.formats.gguf.types import bits, blocks, tensor_bytes
from tests.formats.gguf.recordings import MODELS, recording

KNOWN = [f for f in FILE_TYPES if f.base in blocks()]
BY_NAME = {f.name: f for f in FILE_TYPES}
RUNS = ["", ":imatrix", ":pure"]
LLAMA = Hyper(arch="llama", layers=32, heads=32, kv_heads=8, experts=0)


def ours(model: str, name: str, run: str) -> dict[str, str]:
    made = recording(model)
    options = {"imatrix": run == ":imatrix", "pure": run == ":pure"}
    return tensor_types(made.tensors, made.hyper, BY_NAME[name], **options)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("run", RUNS)
def test_every_tensor_has_the_type_that_llama_quantize_gives_it(model: str, run: str) -> None:
    made = recording(model)
    for name in (f.name for f in KNOWN):
        if "error" in made.runs[name + run]:
            with pytest.raises(UnsupportedError, match="no stand-in"):
                ours(model, name, run)
        else:
            assert ours(model, name, run) == made.types(name + run), name


def test_no_more_runs_failed_than_llama_cpp_has_no_stand_in_for() -> None:
    failed = {(model, run) for model in MODELS for run, kept in recording(model).runs.items() if "error" in kept}
    assert failed == {("gpt-oss-20b", f"Q1_0{run}") for run in RUNS}


@pytest.mark.parametrize("model", MODELS)
def test_the_bytes_are_those_that_llama_quantize_prints(model: str) -> None:
    made = recording(model)
    for file_type in KNOWN:
        if "mib" not in made.runs[file_type.name]:
            continue
        types = ours(model, file_type.name, "")
        total = sum(tensor_bytes(types[t.name], t.shape) for t in made.tensors)
        assert total / 2**20 == pytest.approx(made.runs[file_type.name]["mib"], abs=0.006)


def test_every_file_type_and_sixteen_models_were_recorded() -> None:
    assert len(MODELS) >= 16
    assert {name for model in MODELS for name in recording(model).runs} == {f.name + run for f in KNOWN for run in RUNS}
    assert {recording(m).hyper.arch for m in MODELS} >= {"llama", "falcon", "deepseek2", "gpt-oss", "gemma3", "qwen2"}


def test_recordings_hold_the_cases_that_rules_distinguish() -> None:
    hypers = [recording(m).hyper for m in MODELS]
    assert any(h.is_70b and h.arch == "llama" for h in hypers)
    assert any(h.is_70b and h.arch == "qwen2" for h in hypers)
    assert any(h.experts == 8 for h in hypers) and any(h.experts > 8 for h in hypers)
    assert any(h.grouped for h in hypers) and any(not h.grouped for h in hypers)
    assert any("output.weight" not in {t.name for t in recording(m).tensors} for m in MODELS)
    assert any(t.shape[-1] % 256 for m in MODELS for t in recording(m).tensors if len(t.shape) > 1)


@pytest.mark.parametrize("model", MODELS)
def test_more_bits_never_make_a_smaller_file(model: str) -> None:
    made = recording(model)

    def size(name: str) -> int:
        types = ours(model, name, "")
        return sum(tensor_bytes(types[t.name], t.shape) for t in made.tensors)

    for order in (
        ("Q3_K_S", "Q3_K_M", "Q3_K_L"),
        ("Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32"),
        ("Q4_K_S", "Q5_K_S", "Q5_K_M"),
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_S", "IQ3_M"),
        ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16"),
    ):
        sizes = [size(name) for name in order]
        assert sizes == sorted(sizes), order


@pytest.mark.parametrize("file_type", KNOWN, ids=lambda f: f.name)
def test_pure_gives_every_whole_row_matrix_the_base_type(file_type) -> None:
    types = ours("llama-3-8b", file_type.name, ":pure")
    assert {types[t.name] for t in recording("llama-3-8b").tensors if len(t.shape) > 1} == {file_type.base}


def test_vectors_norms_and_routers_stay_as_they_are() -> None:
    for name, shape in (
        ("blk.0.attn_norm.weight", (4096,)),
        ("blk.0.attn_q_norm.weight", (32, 128)),
        ("blk.0.ffn_gate_inp.weight", (8, 4096)),
        ("blk.0.ffn_gate_inp_shexp.weight", (1, 2048)),  # one row: ggml counts one axis
        ("blk.0.ffn_up_exps.bias", (32, 2880)),
        ("blk.0.ssm_conv1d.weight", (4096, 4)),
    ):
        assert not allows_quantization(Tensor(name=name, shape=shape, type="F32")), name
    assert allows_quantization(Tensor(name="blk.0.ffn_up.weight", shape=(16, 8), type="F16"))


def test_rows_that_blocks_do_not_fill_fall_back() -> None:
    assert fallback("Q4_K", 256) == "Q4_K"
    assert fallback("Q4_K", 2880) == "Q5_0"
    assert fallback("Q6_K", 2880) == "Q8_0"
    assert fallback("IQ3_S", 32) == "IQ4_NL"
    assert fallback("Q3_K", 32) == "Q4_0"
    assert fallback("Q4_K", 33) == "F16"
    assert fallback("Q4_0", 33) == "F16"
    with pytest.raises(UnsupportedError, match=r"NVFP4: llama\.cpp has no stand-in for rows of 32"):
        fallback("NVFP4", 32)


def test_a_fused_qkv_counts_as_values_and_a_latents_parts_do_not() -> None:
    assert category("blk.0.attn_qkv.weight") == "attn_v" == category("blk.0.attn_kv_b.weight")
    assert category("blk.0.attn_v_b.weight") == "other"
    assert category("blk.0.ffn_down_exps.weight") == "ffn_down"


def test_a_tied_embedding_takes_the_heads_type() -> None:
    embedding = Tensor(name="token_embd.weight", shape=(32000, 4096), type="F16")
    head = Tensor(name="output.weight", shape=(32000, 4096), type="F16")
    tied = tensor_types([embedding], LLAMA, BY_NAME["Q4_K_M"], imatrix=False)
    both = tensor_types([embedding, head], LLAMA, BY_NAME["Q4_K_M"], imatrix=False)
    assert tied == {"token_embd.weight": "Q6_K"}
    assert both == {"token_embd.weight": "Q4_K", "output.weight": "Q6_K"}


@pytest.mark.parametrize("kind", sorted(blocks()))
def test_bits_of_a_type_are_its_block_spread_over_its_weights(kind: str) -> None:
    weights, size = blocks()[kind]
    assert bits(kind) == 8 * size / weights
    assert tensor_bytes(kind, (3, 2 * weights)) == 6 * size


def test_a_row_that_blocks_do_not_fill_has_no_size() -> None:
    with pytest.raises(UnsupportedError, match="blocks of 256 weights do not divide a row of 2880"):
        tensor_bytes("Q4_K", (1, 2880))


# Bits per weight as llama.cpp's users know them (docs of the k-quant pull request, ggerganov/llama.cpp#1684,
# and tools/quantize/quantize.cpp QUANT_OPTIONS).
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Q4_0", 4.5), ("Q4_1", 5), ("Q8_0", 8.5), ("Q2_K", 2.625), ("Q3_K", 3.4375), ("Q4_K", 4.5), ("Q6_K", 6.5625),
     ("IQ2_XXS", 2.0625), ("IQ2_XS", 2.3125), ("IQ4_XS", 4.25), ("IQ1_S", 1.5625), ("MXFP4", 4.25), ("TQ1_0", 1.6875)],
)  # fmt: skip
def test_well_known_bits(kind: str, expected: float) -> None:
    assert bits(kind) == expected
