"""What layers cache, against what transformers' own cache objects hold."""

from typing import Any

import pytest
import torch

from planner.errors import UnsupportedError
from planner.formats.served_model import CacheLayer
from planner.job import Build
from planner.models.build import build_model
from planner.models.source import ModelSource, load_source
from planner.serving.cache import cache_size
from planner.serving.cache_layers import LayerKinds, filled_cache, read_cache

# Sizes of real models, as their config.json says; what is left out is transformers' default for the family.
CONFIGS: dict[str, dict[str, Any]] = {
    # bigcode/gpt_bigcode-santacoder: one key-value head
    "gpt_bigcode": {"n_embd": 2048, "n_head": 16, "n_layer": 24, "n_positions": 2048, "multi_query": True},
    # mistralai/Mistral-7B-v0.1: every layer slides
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    # ibm-ai-platform/Bamba-9B, its first 20 layers
    "bamba": {"num_hidden_layers": 20, "attn_layer_indices": [9, 18]},
    # LiquidAI/LFM2-1.2B
    "lfm2": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    },
    # ibm-granite/granite-4.0-h-tiny, its first 20 layers: attention in 5 and 15
    "granitemoehybrid": {
        "hidden_size": 1536, "num_hidden_layers": 20, "num_attention_heads": 12, "num_key_value_heads": 4,
        "num_local_experts": 64, "num_experts_per_tok": 6, "intermediate_size": 512, "shared_intermediate_size": 1024,
        "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1,
        "layer_types": ["attention" if n % 10 == 5 else "mamba" for n in range(20)],
    },
    # each layer like the others, of which running all would take seconds
    "falcon_h1": {"num_hidden_layers": 6}, "mamba2": {"num_hidden_layers": 6},
    "qwen3_next": {}, "jamba": {}, "gemma3n_text": {}, "recurrent_gemma": {},
}  # fmt: skip


def source_of(name: str) -> ModelSource:
    if name in CONFIGS:
        return ModelSource(name=name, config={"model_type": name, **CONFIGS[name]})
    return load_source(name)


def built(name: str) -> Any:
    return build_model(source_of(name), Build())


def held(cache: Any) -> int:
    """Bytes in transformers' cache."""
    tensors: list[torch.Tensor | None] = []
    for layer in cache.layers:
        tensors += [getattr(layer, name, None) for name in ("keys", "values", "indexer_keys")]
        tensors += [*getattr(layer, "conv_states", {}).values(), *getattr(layer, "recurrent_states", {}).values()]
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def expected(layers: tuple[CacheLayer, ...], tokens: int) -> int:
    """transformers keeps one token less of a full window: DynamicSlidingWindowLayer.update, `-sliding_window + 1`."""
    missing = [layer for layer in layers if layer.window is not None and tokens >= layer.window]
    missed = sum(2 * layer.heads * (layer.key_dim + layer.value_dim) for layer in missing)
    return cache_size(layers, tokens, block=1).bytes - missed


@pytest.mark.parametrize(
    ("name", "kinds", "lengths"),
    [
        ("llama-2-7b", {"full": 32}, (7, 600)),
        ("llama-3-8b", {"full": 32}, (7, 600)),
        ("tests/measured/configs/falcon.json", {"full": 32}, (7, 600)),
        ("gpt_bigcode", {"full": 24}, (7, 600)),
        ("deepseek-r1", {"latent": 61}, (7, 600)),
        ("mistral", {"sliding": 32}, (7, 4095, 4096, 5000)),
        ("gemma-3-27b", {"sliding": 52, "full": 10}, (7, 1023, 1024, 1500)),
        ("gpt-oss-20b", {"sliding": 12, "full": 12}, (7, 128, 300)),
        ("llama-4-scout", {"chunked": 36, "full": 12}, (7, 9000)),
        ("tests/measured/configs/gemma4.json", {"sliding": 5, "full": 1}, (7, 600)),
        ("qwen3_next", {"recurrent": 36, "full": 12}, (7, 200)),
        ("jamba", {"recurrent": 28, "full": 4}, (7, 200)),
        ("bamba", {"recurrent": 18, "full": 2}, (7, 200)),
        ("falcon_h1", {"recurrent": 6, "full": 6}, (7, 200)),
        ("granitemoehybrid", {"recurrent": 18, "full": 2}, (7, 200)),
        ("lfm2", {"recurrent": 10, "full": 6}, (7, 200)),
        ("mamba2", {"recurrent": 6}, (7, 200)),
        ("gemma3n_text", {"sliding": 16, "full": 4, "shared": 15}, (7, 600)),
    ],
)
def test_a_cache_weighs_what_transformers_own_cache_holds(
    name: str, kinds: dict[str, int], lengths: tuple[int, ...]
) -> None:
    model = built(name)
    layers, _ = read_cache(model, name)
    assert {kind: sum(layer.kind == kind for layer in layers) for kind in kinds} == kinds
    assert len(layers) == sum(kinds.values())
    few = lengths[0]
    assert held(filled_cache(model, few)) == expected(layers, few)
    kinds_of_layers = LayerKinds()
    for tokens in lengths:  # equal layers, which kept the same of a few tokens, run once
        assert held(filled_cache(model, tokens, kinds=kinds_of_layers)) == expected(layers, tokens), tokens


@pytest.mark.parametrize(
    ("sizes", "kv_heads", "kibibytes"),
    [
        # tiiuae/falcon-40b: 60 layers x 8 heads x 64 elements, keys and values in 16 bits
        ({"hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128}, 8, 120),
        # tiiuae/falcon-180B: 80 layers
        ({"hidden_size": 14848, "num_hidden_layers": 80, "num_attention_heads": 232}, 8, 160),
    ],
)
def test_heads_that_transformers_repeats_are_kept_once(sizes: dict[str, int], kv_heads: int, kibibytes: int) -> None:
    config = {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": kv_heads, **sizes}
    model = build_model(ModelSource(name="falcon", config=config), Build())
    layers, notes = read_cache(model, "falcon")
    assert {layer.heads for layer in layers} == {kv_heads}
    assert cache_size(layers, 100).bytes_per_token == kibibytes * 1024
    repeated = sizes["num_attention_heads"] // kv_heads
    assert held(filled_cache(model, 7)) == repeated * cache_size(layers, 7, block=1).bytes
    assert any(f"keep {kv_heads} key-value heads" in note for note in notes)


def test_one_image_fills_the_cross_attention_layers() -> None:
    """Llama-3.2-11B-Vision: 4 tiles of 560 pixels, patches of 14: 4 x 1601 tokens for each of 8 layers."""
    vision = {"model_type": "mllama_vision_model", "image_size": 560, "patch_size": 14, "max_num_tiles": 4}
    source = ModelSource(name="mllama", config={"model_type": "mllama", "vision_config": vision})
    model = build_model(source, Build())
    layers, notes = read_cache(model, "mllama")
    cross = [layer for layer in layers if layer.kind == "cross"]
    assert [(layer.layer, layer.window) for layer in cross] == [(n, 6404) for n in (3, 8, 13, 18, 23, 28, 33, 38)]
    assert any("6404 tokens" in note for note in notes)

    image = torch.empty(1, 6404, 4096, dtype=torch.bfloat16, device="meta")
    assert held(filled_cache(model, 7, cross_attention_states=image)) == cache_size(layers, 7, block=1).bytes


def test_sparse_attention_keeps_its_indexer_keys_and_mlas_latent() -> None:
    """DeepSeek-V3.2: 576 elements of latent and 128 of indexer keys; transformers expands the latent."""
    model = build_model(ModelSource(name="v3.2", config={"model_type": "deepseek_v32"}), Build(layers=4))
    layers, notes = read_cache(model, "v3.2")
    assert cache_size(layers, 1000, block=1).bytes == 4 * (576 + 128) * 2 * 1000
    assert held(filled_cache(model, 1000)) == 4 * (128 * (192 + 128) + 128) * 2 * 1000
    assert any("latent" in note and "40960" in note for note in notes)


def test_a_state_that_modules_keep_themselves_is_found() -> None:
    """RecurrentGemma-2B: an fp32 recurrent state of 2560 and three columns of convolution in each such layer."""
    layers, _ = read_cache(built("recurrent_gemma"), "recurrent_gemma")
    states = [layer.state_bytes for layer in layers if layer.kind == "recurrent"]
    assert states == [2560 * 4 + 2560 * 3 * 2] * 18
    assert sum(layer.kind == "sliding" and layer.window == 2048 for layer in layers) == 8


@pytest.mark.parametrize("name", ["deepseek_v4", "rwkv", "xlstm", "minimax"])
def test_a_cache_that_is_not_known_is_an_error_and_no_zero(name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        read_cache(build_model(ModelSource(name=name, config={"model_type": name}), Build(layers=2)), name)


def test_an_unknown_cache_says_what_kept_the_model_from_filling_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("qwen3_next")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(model, "forward", refuse)
    monkeypatch.setattr("planner.serving.cache_layers.cache_argument", lambda _: "past_key_values")
    with pytest.raises(UnsupportedError, match=r"layer 0 \(linear_attention\).*no kernel"):
        read_cache(model, "qwen3_next")


@pytest.mark.parametrize("name", ["gemma-3-27b", "deepseek-r1", "llama-4-scout", "llama-2-7b"])
def test_a_model_that_does_not_run_gets_its_cache_from_the_config(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(name)
    traced, _ = read_cache(model, name)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(model, "forward", refuse)
    monkeypatch.setattr("planner.serving.cache_layers.cache_argument", lambda _: "past_key_values")
    derived, notes = read_cache(model, name)
    assert derived == traced
    assert "derived from the config" in notes[0]
    assert "no kernel" in notes[0]
