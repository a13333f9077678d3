"""A made-up model with round numbers, for tests whose answers are sums that a reader can do."""

from fractions import Fraction
from typing import Any

from planner.formats.registry import Format
from planner.formats.served_model import CacheLayer, ServedModel
from planner.formats.tensors import Stored, StoredModel, Weight
from planner.serving.activations import Attention

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD, WIDTH, VOCABULARY, EXPERTS = 4, 1024, 8, 2, 128, 4096, 32000, 10


def linear(name: str, rows: int, columns: int, layer: int | None, copies: int = 1) -> Weight:
    unit: Any = "decoder" if layer is not None else "head"
    return Weight(name=name, shape=(rows, columns), classes=("Linear",), unit=unit, layer=layer, copies=copies)


def layer_weights(number: int, experts: int = 0) -> list[Weight]:
    at = f"model.layers.{number}."
    mlp, copies = (f"{at}mlp.experts.*.", experts) if experts else (f"{at}mlp.", 1)
    found = [
        linear(f"{at}self_attn.q_proj.weight", HEADS * HEAD, HIDDEN, number),
        linear(f"{at}self_attn.k_proj.weight", KV_HEADS * HEAD, HIDDEN, number),
        linear(f"{at}self_attn.v_proj.weight", KV_HEADS * HEAD, HIDDEN, number),
        linear(f"{at}self_attn.o_proj.weight", HIDDEN, HEADS * HEAD, number),
        linear(f"{mlp}gate_proj.weight", WIDTH, HIDDEN, number, copies),
        linear(f"{mlp}down_proj.weight", HIDDEN, WIDTH, number, copies),
        Weight(name=f"{at}input_layernorm.weight", shape=(HIDDEN,), unit="decoder", layer=number),
    ]
    return [*found, linear(f"{at}mlp.gate.weight", experts, HIDDEN, number)] if experts else found


def model(*, experts: int = 0, chosen: int = 0, tied: bool = False, **changes: Any) -> ServedModel:
    embedding = Weight(
        name="model.embed_tokens.weight", shape=(VOCABULARY, HIDDEN), classes=("Embedding",), unit="embedding"
    )
    weights = [embedding, *(w for n in range(LAYERS) for w in layer_weights(n, experts))]
    weights.append(Weight(name="model.norm.weight", shape=(HIDDEN,), unit="norm"))
    if not tied:
        weights.append(linear("lm_head.weight", VOCABULARY, HIDDEN, None))
    cache = (CacheLayer(layer=n, kind="full", heads=KV_HEADS, key_dim=HEAD, value_dim=HEAD) for n in range(LAYERS))
    count = sum(w.elements for w in weights)
    values: dict[str, Any] = {
        "name": "made-up", "architecture": "MadeUp", "model_type": "made", "parameters": count,
        "active_parameters": count, "weights": tuple(weights), "cache": tuple(cache), "layers": LAYERS,
        "hidden_size": HIDDEN, "attention_heads": HEADS, "kv_heads": KV_HEADS, "vocabulary": VOCABULARY,
        "experts": experts, "experts_per_token": chosen, "max_positions": 8192, "tied": tied, "graph": None,
    }  # fmt: skip
    return ServedModel(**{**values, **changes})


def stored(served: ServedModel, *, embedding_on_cpu: bool = False) -> StoredModel:
    """Every tensor in 16 bits."""
    tensors = []
    for weight in served.weights:
        count = 2 * weight.elements
        cpu = count if embedding_on_cpu and weight.unit == "embedding" else 0
        gpu = 0 if cpu and not served.tied else count
        tensors.append(Stored(weight=weight, type="bfloat16", file_bytes=count, gpu_bytes=gpu, cpu_bytes=cpu))
    return StoredModel(format="16 bits", tensors=tuple(tensors))


def sixteen(family: Any = "plain") -> Format:
    on_cpu = family in ("gguf", "exllama")
    return Format(
        name="16 bits", family=family, summary="", bits=Fraction(16),
        store=lambda served: stored(served, embedding_on_cpu=on_cpu),
    )  # fmt: skip


def activations(tokens: int, context: int, *, batch: int = 1, attention: Attention = "flash", shards: int = 1) -> int:
    """1000 bytes per token, and the scores where they are in memory."""
    scores = tokens * context * HEADS * 2 if attention == "eager" else 0
    return batch * (1000 * tokens + scores) // shards
