"""Law of every trace: each weight of a unit that the forward should run is onloaded by some segment."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from planner.errors import PlannerError
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.kinds import BESIDE_TEXT
from planner.models.load import load_model
from planner.models.touched import first_touches, untouched, untouched_note, with_onloads
from planner.notes import texts
from planner.upstream import EXPERT_COUNT_KEYS, EXPERTS_PER_TOKEN_KEYS
from tests.toys import EMBEDDING, HEAD, NORM, Toy

TEXT = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES))
VISION = ["gemma3", "llama4", "llava_next", "mistral3", "qwen2_5_vl", "qwen3_vl_moe"]
FEW = 8

# What the forward of a text-only job rightly leaves out, and why.
CROSS_ATTENTION = r"encoder_attn(_layer_norm)?\."  # given no encoder's states
HEADS_BIAS = r"^(lm_head|cls\.predictions)\.bias$"  # the output head's own: its logits are never computed
UNREAD = {
    **dict.fromkeys(("bart", "bigbird_pegasus", "mbart", "plbart", "trocr", "whisper"), CROSS_ATTENTION),
    **dict.fromkeys(
        ("bert", "camembert", "data2vec-text", "ernie", "roberta", "roberta-prelayernorm", "xlm-roberta",
         "xlm-roberta-xl"), HEADS_BIAS
    ),
    "deepseek_v4": r"compressor\.(position_bias|kv_norm\.weight)$",  # a window of tokens is not full at 16
    "fuyu": r"vision_embed_tokens",  # patches of images
    "phi4_multimodal": r"embed_tokens_extend",  # images and sound
    "llava_next": r"image_newline$",
}  # fmt: skip
DBRX = {
    "model_type": "dbrx", "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": 100,
    "attn_config": {"kv_n_heads": 2, "rope_theta": 10000, "clip_qkv": 8},
    "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
}  # fmt: skip


def fewer_experts(value: Any, key: str = "") -> Any:
    """A config with a few experts in each layer: the law is the same, and the test is quick."""
    if isinstance(value, dict):
        return {name: fewer_experts(part, name) for name, part in value.items()}
    if key in (*EXPERT_COUNT_KEYS, *EXPERTS_PER_TOKEN_KEYS) and isinstance(value, int):
        return min(value, FEW)
    return 1 if key in ("n_group", "topk_group") else value


def loaded(config: dict[str, Any], folder: Path) -> ModelGraph:
    path = folder / "config.json"
    path.write_text(json.dumps(config, default=str))
    try:
        return load_model(str(path), Job(layers=1, seq_len=16, samples=1))
    except PlannerError as error:
        pytest.skip(f"not planned: {error}")


@pytest.mark.parametrize("family", [*TEXT, *VISION])
def test_every_weight_that_the_forward_should_run_is_read_and_the_others_are_named(family: str, tmp_path: Path) -> None:
    try:
        config = fewer_experts(AutoConfig.for_model(family).to_dict())
    except Exception as error:
        pytest.skip(f"transformers has no default config of it: {error}")
    graph = loaded(config, tmp_path)
    if not any(segment.exact for segment in graph.trace.segments):
        assert any("estimated" in note.text for note in graph.trace.notes) or not graph.trace.segments
        return
    missing = untouched(graph.units, graph.structures, graph.trace)
    towers = {unit.name for unit in graph.units if unit.kind in BESIDE_TEXT}
    names = [name for unit, weights in missing.items() if unit not in towers for name in weights]
    expected = UNREAD.get(family)
    assert [name for name in names if expected is None or not re.search(expected, name)] == []
    assert (untouched_note(names) in texts(graph.trace.notes)) == bool(names) == (expected is not None)


def test_every_expert_of_dbrx_runs(tmp_path: Path) -> None:
    """Its experts are no Linears, and which of them have tokens is known after the routing alone."""
    graph = loaded(DBRX, tmp_path)
    assert untouched(graph.units, graph.structures, graph.trace) == {}
    mlp = [e for e in graph.trace.segments[1].events if e.kind == "alloc" and e.name.startswith(".ffn.experts.mlp ")]
    products = [e.bytes for e in mlp if e.bytes == 16 * 2 // 4 * 32 * 2]  # tokens of an expert, its width, bfloat16
    assert len(products) == 4 * 3  # of each expert: gate, up, and their product


def test_dbrx_peaks_where_the_real_library_does(tmp_path: Path) -> None:
    """databricks/dbrx-base, two layers, RTN W8A8 with 2 x 1024 tokens: bytes of LLM Compressor 0.14.0.1 on the meter,
    told that there are 16 experts (it reads them from no `ffn_config`), but for its few bytes of loose scalars."""
    from planner.compress.recipes import load_recipe
    from planner.planning import plan_graph

    sizes = {"d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768, "vocab_size": 100352}
    parts = {
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "dbrx", "tie_word_embeddings": False, **sizes, **parts}))
    job = Job(progress_bars=False, layers=2, samples=2, seq_len=1024)
    plan = plan_graph(load_model(str(path), job), load_recipe("rtn_w8a8_static"), job)
    steps = [step.gpu.peak_bytes for step in plan.steps if step.subgraph is not None]
    measured = [1_265_406_208, 1_248_354_560, 1_280_618_752, 7_133_700_108, 6_561_349_717, 7_133_743_169,
                7_118_499_860, 6_546_149_461, 7_118_542_913]  # fmt: skip
    assert [abs(ours - theirs) < 32 for ours, theirs in zip(steps, measured, strict=True)] == [True] * 9


# ---------------------------------------------------------------------- in closed form
def test_a_weight_is_onloaded_with_the_first_segment_that_reads_it() -> None:
    touches = first_touches(Toy().trace)
    assert touches[f"{EMBEDDING}.weight"] == 0
    assert touches[f"{NORM}.weight"] == 3
    assert [touches[f"model.layers.{n}.up.weight"] for n in range(3)] == [1, 2, 3]


def test_units_are_onloaded_as_their_trace_says() -> None:
    graph = Toy().graph
    found = {unit.name: unit.onload for unit in with_onloads(graph.units, graph.structures, graph.trace)}
    layers = {f"model.layers.{n}": "own-subgraph" for n in range(3)}
    assert found == {EMBEDDING: "head", **layers, NORM: "last", HEAD: "setup"}


def test_a_note_names_each_kind_of_weight_once() -> None:
    names = [f"model.layers.{n}.{part}.weight" for n in range(4) for part in ("a", "b", "c", "d")]
    note = untouched_note(names)
    assert note.startswith("16 weights are never read")
    assert note.endswith("model.layers.*.a.weight, model.layers.*.b.weight, model.layers.*.c.weight and 1 more")
    assert untouched_note(["norm.weight"]).startswith("1 weight is never read")


def test_borders_below_the_layer_are_read_off_the_trace() -> None:
    """A layer's norm runs with the attention before or after it, not with the head or the last subgraph."""
    graph = load_model("llama-3-8b", Job(layers=3, seq_len=16, sequential_targets=("LlamaAttention", "LlamaMLP")))
    onloads = {unit.name: unit.onload for unit in graph.units}
    assert onloads["model.layers.0.input_layernorm"] == "head"
    assert onloads["model.layers.1.input_layernorm"] == onloads["model.layers.1.post_attention_layernorm"] == "another"
    assert onloads["model.norm"] == "last"
    assert onloads["model.layers.1.mlp"] == "own-subgraph"
