"""Which part of a tensor one of N GPUs holds under vLLM's tensor parallelism.

vllm/model_executor/layers/linear.py: ColumnParallelLinear and QKVParallelLinear split a matrix and its bias by
outputs, RowParallelLinear splits the matrix by inputs and keeps the bias whole, ReplicatedLinear splits nothing;
vocab_parallel_embedding.py splits embedding and head by rows, padded to a multiple of 64.
"""

from collections.abc import Iterable
from fractions import Fraction

from planner.errors import JobError
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Stored, StoredModel, Weight
from planner.models.kinds import TOWERS

_KEY_VALUE = {"k_proj", "v_proj"}
_FUSED = {
    "qkv_proj",
    "query_key_value",
    "qkv",
    "Wqkv",
    "c_attn",
}  # vllm/model_executor/models/gpt2.py: QKVParallelLinear
_COLUMN = {
    *("q_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "w1", "w3"),
    *("dense_h_to_4h", "linear_fc1", "in_proj", "in_proj_qkvz", "in_proj_ba", "conv1d", "dt_proj", "g_proj"),
}
# `dense`: the output of attention in vllm/model_executor/models/{gpt_neox,falcon,bloom}.py, a RowParallelLinear.
_ROW = {"o_proj", "down_proj", "out_proj", "fc2", "c_proj", "w2", "dense", "dense_4h_to_h", "linear_fc2", "x_proj"}
# vllm/model_executor/models/deepseek_v2.py: q_a_proj and kv_a_proj_with_mqa are ReplicatedLinear, or fused with
# disable_tp; routers are ReplicatedLinear in every mixture of experts.
_WHOLE = {"q_a_proj", "kv_a_proj_with_mqa", "gate", "router", "shared_expert_gate", "wk", "wq_b", "weights_proj"}
# One number, or one vector, per attention or state-space head.
_PER_HEAD = {"sinks", "A_log", "dt_bias", "D"}
_PADDING = 64
# Column-parallel matrices whose outputs are split evenly, with the number of matrices that are one tensor.
_MATRICES = {"q_proj": 1, "q_b_proj": 1, "kv_b_proj": 1, "gate_proj": 1, "up_proj": 1, "gate_up_proj": 2}
_MATRICES |= {"fc1": 1, "c_fc": 1, "w1": 1, "w3": 1, "dense_h_to_4h": 1}


def part_of(weight: Weight, model: ServedModel, gpus: int) -> Fraction:
    """The part that one GPU holds; 1 for what every GPU holds whole."""
    if weight.unit in ("embedding", "head"):
        return _vocabulary_part(weight, model, gpus)
    if weight.unit in TOWERS:
        return _tower_part(weight, gpus)
    leaf, parameter = weight.module.rpartition(".")[2], weight.name.rpartition(".")[2]
    if parameter in _PER_HEAD:
        return Fraction(1, gpus)
    if leaf in _KEY_VALUE:
        return _key_value_part(model, gpus)
    if leaf in _FUSED:
        heads, kept = model.attention_heads, 2 * model.kv_heads * _key_value_part(model, gpus)
        return (Fraction(heads, gpus) + kept) / (heads + 2 * model.kv_heads)
    if leaf in _COLUMN or (leaf in _ROW and not parameter.endswith("bias")):
        return Fraction(1, gpus)
    return Fraction(1)


def check_heads(model: ServedModel, gpus: int) -> None:
    """Raise JobError where vLLM would: heads of queries, and of keys, must come out even (or keys be copied)."""
    if model.attention_heads % gpus:
        good = [str(n) for n in range(2, model.attention_heads + 1) if _divides(n, model)]
        raise JobError(
            f"--gpus {gpus}: {model.attention_heads} attention heads do not divide among them; "
            f"{', '.join(good[:8])} GPUs would do, or --split layer"
        )
    if not _divides(gpus, model):
        raise JobError(f"--gpus {gpus}: {model.kv_heads} key-value heads cannot be split or copied evenly among them")


def check_blocks(model: ServedModel, stored: StoredModel, gpus: int, *, whole_experts: bool = False) -> list[str]:
    """Raise JobError where vLLM would: a split that cuts through weights with one scale. Notes where it may.

    quantization/utils/fp8_utils.py validate_fp8_block_shape and fp8.py Fp8MoEMethod.create_weights (blocks);
    compressed_tensors_wNa16.py create_weights, awq.py, gptq.py (`input_size_per_partition % group_size`).
    Groups of experts: moe_wna16.py halves them down to 32, its Marlin kernels do not take the cut
    (vllm-project/vllm#17604).
    """
    notes: dict[str, None] = {}
    for tensor in stored.tensors:
        if whole_experts and tensor.weight.is_expert:
            continue
        cut = _cut(tensor, model, gpus)
        if cut is None:
            continue
        if tensor.weight.is_expert and tensor.block is not None and tensor.block[0] == 1:
            name = tensor.weight.module.rpartition(".")[2]
            notes[f"vLLM may refuse the experts' {name} on {gpus} GPUs: {cut}; --split expert keeps experts whole"] = (
                None
            )
        else:
            raise JobError(
                f"--gpus {gpus}: vLLM cannot split {tensor.weight.module}: {cut}; {_way_out(model, stored, gpus)}"
            )
    return list(notes)


def _way_out(model: ServedModel, stored: StoredModel, gpus: int) -> str:
    counts = (n for n in range(gpus - 1, 1, -1) if _divides(n, model))
    good = next((n for n in counts if not any(_cut(tensor, model, n) for tensor in stored.tensors)), None)
    ways = [f"{good} GPUs"] if good else []
    if model.experts and not _cuts_beside_experts(model, stored, gpus):
        ways.append("--split expert")
    return f"{' or '.join([*ways, '--split layer'])} would do"


def _cuts_beside_experts(model: ServedModel, stored: StoredModel, gpus: int) -> bool:
    return any(_cut(tensor, model, gpus) for tensor in stored.tensors if not tensor.weight.is_expert)


def _cut(tensor: Stored, model: ServedModel, gpus: int) -> str | None:
    """What one GPU would get of a matrix, where that is no whole number of its blocks."""
    weight = tensor.weight
    if tensor.block is None or weight.unit != "decoder" or part_of(weight, model, gpus) == 1:
        return None
    outputs, inputs = tensor.block
    leaf = weight.module.rpartition(".")[2]
    if leaf in _ROW:
        each, side, size = Fraction(weight.shape[1], gpus), "inputs", inputs
    elif leaf in _KEY_VALUE:
        each, side, size = weight.shape[0] * _key_value_part(model, gpus), "outputs", outputs
    elif leaf in _MATRICES:
        each, side, size = Fraction(weight.shape[0], gpus * _MATRICES[leaf]), "outputs", outputs
    else:
        return None
    return f"{float(each):g} {side} on each GPU are no multiple of its blocks of {size}" if each % size else None


def unknown_roles(weights: Iterable[Weight]) -> list[str]:
    """Names of matrices of the decoder that no rule here knows."""
    known = _KEY_VALUE | _FUSED | _COLUMN | _ROW | _WHOLE
    leaves = (w.module.rpartition(".")[2] for w in weights if w.unit == "decoder" and _is_matrix(w))
    return sorted({leaf for leaf in leaves if leaf not in known})


def _is_matrix(weight: Weight) -> bool:
    return weight.is_linear or (weight.classes[:1] == ("Conv1D",) and len(weight.shape) == 2)


def _divides(gpus: int, model: ServedModel) -> bool:
    kv = model.kv_heads or model.attention_heads
    return model.attention_heads % gpus == 0 and (kv % gpus == 0 or gpus % kv == 0)


def _key_value_part(model: ServedModel, gpus: int) -> Fraction:
    """vLLM QKVParallelLinear: with fewer key-value heads than GPUs each GPU has a copy of one head."""
    return Fraction(1, min(gpus, model.kv_heads) if model.kv_heads else gpus)


def _vocabulary_part(weight: Weight, model: ServedModel, gpus: int) -> Fraction:
    if len(weight.shape) != 2 or weight.shape[0] < model.vocabulary:
        return Fraction(1)  # positions, norms, biases
    padded = -(-weight.shape[0] // _PADDING) * _PADDING
    return min(Fraction(1), Fraction(-(-padded // gpus), weight.shape[0]))


def _tower_part(weight: Weight, gpus: int) -> Fraction:
    """vLLM splits a tower's matrices like the decoder's (mm_encoder_tp_mode "weights", the default)."""
    leaf, parameter = weight.module.rpartition(".")[2], weight.name.rpartition(".")[2]
    row = leaf in _ROW or leaf == "proj"
    split = leaf in _COLUMN | _FUSED | _KEY_VALUE or (row and not parameter.endswith("bias"))
    whole = not any("Linear" in name for name in weight.classes) or any(size % gpus for size in weight.shape[:2])
    return Fraction(1, gpus) if split and not whole else Fraction(1)
