from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BloomConfig, GPTNeoXConfig, PretrainedConfig

from planner.errors import JobError
from planner.fields import Engine
from planner.formats.registry import find_format
from planner.formats.served_model import CacheLayer
from planner.formats.tensors import Weight
from planner.serving.engines import ENGINES, LLAMA_CPP, VLLM
from planner.serving.model import load_served
from planner.serving.schema import ServeOptions
from planner.serving.split import Placement, Share, place
from planner.serving.tensor_parallel import part_of, unknown_roles
from tests.formats.full_size import served
from tests.formats.full_size import stored as full
from tests.formats.weight_formats import find_weights
from tests.serving.served import HIDDEN, LAYERS, VOCABULARY, linear, model, stored


def laid_out(engine: Engine = "vllm", served: Any = None, **options: Any) -> Placement:
    served = served or model()
    return place(served, stored(served, embedding_on_cpu=engine != "vllm"), ENGINES[engine], ServeOptions(**options))


def names(share: Share) -> set[str]:
    return {held.stored.weight.name for held in share.weights}


def test_one_gpu_holds_everything_once() -> None:
    served = model()
    placement = laid_out(served=served)
    assert placement.mode is None
    assert placement.bytes == stored(served).gpu_bytes
    assert placement.cpu.bytes == 0


def test_tensor_parallelism_splits_matrices_and_copies_norms() -> None:
    served = model()
    first, second = laid_out(served=served, gpus=2).gpus
    norms = sum(2 * w.elements for w in served.weights if "norm" in w.name)
    assert first == second
    assert first.bytes == (stored(served).gpu_bytes - norms) // 2 + norms


def test_more_gpus_than_key_heads_keep_copies_of_them() -> None:
    served = model()
    shares = {gpus: laid_out(served=served, gpus=gpus).gpus[0] for gpus in (2, 4, 8)}
    keys = {
        gpus: sum(h.bytes for h in share.weights if "k_proj" in h.stored.weight.name) for gpus, share in shares.items()
    }
    assert keys[2] == keys[4] == keys[8]
    queries = {
        g: sum(h.bytes for h in share.weights if "q_proj" in h.stored.weight.name) for g, share in shares.items()
    }
    assert queries[2] == 4 * queries[8]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.layers.0.self_attn.q_a_proj.weight", 1),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 1),
        ("model.layers.0.self_attn.q_b_proj.weight", Fraction(1, 8)),
        ("model.layers.0.self_attn.kv_b_proj.weight", Fraction(1, 8)),
        ("model.layers.0.mlp.gate.weight", 1),
        ("model.layers.0.mlp.shared_experts.up_proj.weight", Fraction(1, 8)),
        ("model.layers.0.self_attn.o_proj.weight", Fraction(1, 8)),
    ],
)
def test_latent_projections_and_routers_are_whole_on_every_gpu(name: str, part: Fraction) -> None:
    assert part_of(linear(name, 64, 64, 0), model(), 8) == part


@pytest.mark.parametrize(
    ("config", "copied"),
    [
        # gpt-neox-20b, transformers' default: the two biases of 44 layers of 6144, norms, and no more
        (GPTNeoXConfig(), 44 * (2 + 4) * 6144 + 2 * 6144),
        # bloom: the norm of the embedding too
        (BloomConfig(hidden_size=4096, n_head=32, n_layer=30, vocab_size=250880), 30 * (2 + 4) * 4096 + 4 * 4096),
    ],
    ids=["gpt-neox-20b", "bloom-7b"],
)
def test_every_matrix_of_gpt_neox_and_bloom_is_split(config: PretrainedConfig, copied: int, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    served = load_served(str(tmp_path / "config.json"))[0]
    whole = [w for w in served.weights if part_of(w, served, 8) == 1]
    assert sum(w.elements for w in whole) == copied
    assert not unknown_roles(served.weights)


def test_a_bias_of_a_row_parallel_matrix_is_whole_and_of_a_column_parallel_one_is_not() -> None:
    def bias(name: str) -> Weight:
        return Weight(name=f"model.layers.0.{name}.bias", shape=(64,), classes=("Linear",), unit="decoder", layer=0)

    assert part_of(bias("self_attn.o_proj"), model(), 2) == 1
    assert part_of(bias("self_attn.q_proj"), model(), 2) == Fraction(1, 2)


def test_a_vocabulary_is_padded_to_64_before_it_is_split() -> None:
    served = model(vocabulary=32001)
    table = Weight(name="model.embed_tokens.weight", shape=(32001, HIDDEN), classes=("Embedding",), unit="embedding")
    assert part_of(table, served, 2) == Fraction(16032, 32001)  # 32064 / 2


@pytest.mark.parametrize(
    ("name", "weights", "gpus", "said"),
    [
        # github.com/vllm-project/vllm/issues/25292: 768 / 4 = 192 outputs of gate and up, block_n = 128
        ("qwen3-30b-a3b", "FP8_BLOCK", 4, r"up_proj: 192 outputs .* blocks of 128; 2 GPUs or --split expert or"),
        # github.com/vllm-project/vllm/issues/12256: output_partition_size = 576, block_n = 128 (18432 / 32)
        ("deepseek-r1", "FP8_BLOCK", 32, r"layers\.0\.mlp\.gate_proj: 576 outputs .* blocks of 128; 16 GPUs"),
        # compressed_tensors_wNa16.py: assert input_size_per_partition % group_size == 0, 11008 / 8 = 1376
        ("llama-2-7b", "W4A16", 8, r"down_proj: 1376 inputs .* blocks of 128; 2 GPUs or --split layer would do$"),
        # AWQ and GPTQ: "The input size is not aligned with the quantized weight shape"
        ("llama-2-7b", "awq", 4, "down_proj: 2752 inputs"),
    ],
)
def test_a_split_that_cuts_through_a_scale_is_refused(name: str, weights: str, gpus: int, said: str) -> None:
    with pytest.raises(JobError, match=rf"--gpus {gpus}: vLLM cannot split .*{said}"):
        place(served(name), full(name, find_weights(weights)), VLLM, ServeOptions(gpus=gpus))


@pytest.mark.parametrize(
    ("name", "weights", "gpus", "split"),
    [
        ("qwen3-30b-a3b", "FP8_BLOCK", 2, "tensor"),
        ("qwen3-30b-a3b", "FP8_BLOCK", 4, "expert"),
        ("qwen3-30b-a3b", "FP8", 4, "tensor"),
        ("deepseek-r1", "FP8_BLOCK", 16, "tensor"),
        ("llama-2-7b", "W4A16", 2, "tensor"),
        ("llama-2-7b", "W4A16", 8, "layer"),
        ("llama-2-7b", "nf4", 8, "tensor"),
    ],
)
def test_whole_blocks_on_every_gpu_are_fine(name: str, weights: str, gpus: int, split: Any) -> None:
    placement = place(served(name), full(name, find_weights(weights)), VLLM, ServeOptions(gpus=gpus, split=split))
    assert not placement.notes


def test_groups_of_experts_that_are_cut_are_a_note() -> None:
    placement = place(served("qwen3-30b-a3b"), full("qwen3-30b-a3b", find_weights("W4A16")), VLLM, ServeOptions(gpus=4))
    (note,) = placement.notes
    assert "may refuse the experts' down_proj on 4 GPUs: 192 inputs" in note


@pytest.mark.parametrize("name", ["llama-3-8b", "qwen3-0.6b"])
@pytest.mark.parametrize("gpus", [1, 2])
def test_vllm_keeps_the_table_of_a_gguf_on_the_gpu_once(name: str, gpus: int) -> None:
    kept = full(name, find_format("Q4_K_M"))
    placement = place(served(name), kept, VLLM, ServeOptions(engine="vllm", gpus=gpus, split="layer"))
    assert placement.cpu.bytes == 0
    assert placement.bytes == sum(t.file_bytes for t in kept.tensors)
    (table,) = (t for t in kept.tensors if t.weight.unit == "embedding")
    assert table.cpu_bytes > 0  # llama.cpp's own


def test_heads_that_do_not_divide_are_refused_with_numbers_that_would_do() -> None:
    with pytest.raises(JobError, match=r"--gpus 3: 8 attention heads .*2, 4, 8 GPUs would do"):
        laid_out(gpus=3)
    with pytest.raises(JobError, match="3 key-value heads"):
        laid_out(served=model(attention_heads=12, kv_heads=3), gpus=2)


def test_experts_go_out_whole_and_the_first_gpus_have_one_more() -> None:
    served = model(experts=10, chosen=2)
    placement = laid_out(served=served, gpus=4, split="expert")
    experts = [sum(h.bytes for h in share.weights if h.stored.weight.is_expert) for share in placement.gpus]
    one = sum(2 * w.elements for w in served.weights if w.is_expert) // 10
    assert experts == [3 * one, 3 * one, 2 * one, 2 * one]
    rest = [share.bytes - count for share, count in zip(placement.gpus, experts, strict=True)]
    assert len(set(rest)) == 1


def test_experts_are_no_more_bytes_in_all_than_as_slices() -> None:
    served = model(experts=8, chosen=2)
    whole, slices = (laid_out(served=served, gpus=4, split=mode) for mode in ("expert", "tensor"))
    assert whole.bytes == slices.bytes


def test_expert_parallelism_needs_experts() -> None:
    for gpus in (1, 2):
        with pytest.raises(JobError, match="has no experts"):
            laid_out(gpus=gpus, split="expert")


def test_llama_cpp_keeps_the_last_layers_on_the_gpu_and_the_output_counts_as_one() -> None:
    placement = laid_out("llama.cpp", gpu_layers=2)
    on_gpu = names(placement.gpus[0])
    assert {w.layer for w in (h.stored.weight for h in placement.gpus[0].weights)} == {None, LAYERS - 1}
    assert {"lm_head.weight", "model.norm.weight"} <= on_gpu
    assert [layer.layer for layer in placement.gpus[0].cache] == [LAYERS - 1]
    assert [layer.layer for layer in placement.cpu.cache] == list(range(LAYERS - 1))
    assert "model.embed_tokens.weight" in names(placement.cpu)
    assert placement.gpu_layers == 1


def test_without_gpu_layers_everything_is_on_the_cpu() -> None:
    placement = laid_out("llama.cpp", gpu_layers=0)
    assert placement.gpus[0].bytes == 0
    served = model()
    assert placement.cpu.bytes == stored(served).gpu_bytes


@given(layers=st.integers(0, 2 * LAYERS), gpus=st.integers(1, 5), tied=st.booleans())
def test_a_split_by_layer_loses_and_doubles_nothing(layers: int, gpus: int, tied: bool) -> None:
    served = model(tied=tied)
    kept = stored(served, embedding_on_cpu=True)
    placement = place(served, kept, LLAMA_CPP, ServeOptions(gpu_layers=layers, gpus=gpus))
    assert placement.bytes + placement.cpu.bytes == kept.gpu_bytes + kept.cpu_bytes
    shares = (*placement.gpus, placement.cpu)
    assert sorted(c.layer for share in shares for c in share.cache) == [c.layer for c in served.cache]


@given(layers=st.integers(0, LAYERS))
def test_one_more_layer_on_the_gpu_never_takes_less_of_it(layers: int) -> None:
    less, more = (laid_out("llama.cpp", gpu_layers=count) for count in (layers, layers + 1))
    assert less.bytes <= more.bytes
    assert less.cpu.bytes >= more.cpu.bytes


def test_all_layers_are_as_many_as_one_more_than_there_are() -> None:
    assert laid_out("llama.cpp", gpu_layers=LAYERS + 1).bytes == laid_out("llama.cpp").bytes
    assert laid_out("llama.cpp", gpu_layers=999).bytes == laid_out("llama.cpp").bytes


def test_vllm_gives_the_rest_of_the_layers_to_gpus_before_the_last() -> None:
    cache = tuple(CacheLayer(layer=n, kind="full", heads=1, key_dim=1, value_dim=1) for n in range(6))
    served = model(layers=6, cache=cache)
    placement = laid_out(served=served, gpus=4, split="layer")
    assert [len(share.cache) for share in placement.gpus] == [1, 2, 2, 1]  # get_pp_indices(6, ..., 4)
    assert "model.embed_tokens.weight" in names(placement.gpus[0])
    assert "lm_head.weight" in names(placement.gpus[-1])


def test_only_llama_cpp_leaves_layers_on_the_cpu() -> None:
    with pytest.raises(JobError, match="GGUF"):
        laid_out("vllm", gpu_layers=3)


def test_only_vllm_splits_tensors() -> None:
    with pytest.raises(JobError, match="--engine vllm"):
        laid_out("llama.cpp", gpus=2, split="tensor")


def test_a_matrix_of_unknown_role_is_counted_whole_and_named() -> None:
    strange = linear("model.layers.0.self_attn.strange_proj.weight", 64, 64, 0)
    assert unknown_roles([strange]) == ["strange_proj"]
    served = model(weights=(*model().weights, strange))
    placement = laid_out(served=served, gpus=2)
    assert placement.bytes == laid_out(gpus=2).bytes + 2 * 2 * strange.elements
    assert "strange_proj" in placement.notes[0]


def test_a_vocabulary_is_split_once_and_a_tied_head_with_it() -> None:
    one, two = (laid_out(served=model(tied=True), gpus=gpus).gpus[0] for gpus in (1, 2))
    table = [h.bytes for h in two.weights if h.stored.weight.unit == "embedding"]
    assert table == [VOCABULARY * HIDDEN]
    assert not any(held.rows for held in one.weights)
