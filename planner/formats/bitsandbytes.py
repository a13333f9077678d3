"""bitsandbytes: LLM.int8 and 4-bit (NF4, FP4, with or without double quantization), as transformers loads them.

Which modules: transformers/integrations/bitsandbytes.py `replace_with_bnb_linear` (type exactly `Linear`, or
Conv1D) less quantizers/base.py `get_keys_to_not_convert` (head, tied embedding, owner of the last parameter).
What is stored: bitsandbytes functional.py `quantize_4bit`, `QuantState.as_dict`; nn/modules.py
`Linear4bit._save_to_state_dict`, `Linear8bitLt._save_to_state_dict`.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from planner.formats.plain import keep
from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Stored, StoredModel, Weight, nothing_to_quantize

BLOCK = 64  # functional.py quantize_4bit
NESTED_BLOCK = 256  # quantize_blockwise(absmax - offset, blocksize=256)
CODE_BYTES = 16 * 4  # the sixteen values of a 4-bit type, fp32
NESTED_CODE_BYTES = 256 * 4
OFFSET_BYTES = 4
# json.dumps of a float32 mean of absmax values has 17 to 21 characters; a few bytes per matrix are open.
_TYPICAL_OFFSET = 0.0123456789012345678

# quantizers/base.py MODULES_TO_PATCH_FOR_QUANTIZATION: fused experts that transformers spreads out for bitsandbytes
_SPREAD_EXPERTS = frozenset({"llama4", "llama4_text"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _FourBit:
    """A 4-bit type of bitsandbytes."""

    kind: str
    nested: bool


def formats() -> Iterable[Format]:
    """LLM.int8, and the 4-bit types with 32-bit and with 8-bit block scales."""
    yield Format(
        name="llm.int8",
        family="bitsandbytes",
        summary="LLM.int8: int8 rows with a 32-bit scale each; head and embeddings 16-bit",
        bits=Fraction(8),
        store=_store("llm.int8", _int8),
        aliases=("bnb-int8", "bnb-8bit"),
    )
    for kind, nested, aliases in (
        ("nf4", False, ("bnb-nf4",)),
        ("nf4", True, ("qlora", "bnb-nf4-dq", "bnb-4bit")),
        ("fp4", False, ("bnb-fp4",)),
        ("fp4", True, ("bnb-fp4-dq",)),
    ):
        yield _four_bit_format(_FourBit(kind=kind, nested=nested), aliases)


def parse(_text: str) -> Format | None:
    """No format of bitsandbytes has a number or a path in its name."""
    return None


def quantized_weights(served: ServedModel) -> frozenset[str]:
    """Names of the matrices that bitsandbytes quantizes; all others stay 16-bit."""
    skipped = _skipped(served)
    fused = served.graph.fused_expert_bytes > 0 and not spreads_experts(served)
    return frozenset(
        weight.name
        for weight in served.weights
        if _is_plain_linear(weight) and weight.module not in skipped and not (fused and weight.is_expert)
    )


def spreads_experts(served: ServedModel) -> bool:
    """Fused experts become Linears when the model is quantized."""
    return served.model_type in _SPREAD_EXPERTS


def four_bit_tensors(
    rows: int, columns: int, *, kind: str = "nf4", nested: bool = False, dtype: str = "bfloat16"
) -> dict[str, int]:
    """Bytes of each tensor that `Linear4bit._save_to_state_dict` writes for a weight."""
    count = rows * columns
    blocks = -(-count // BLOCK)
    state: dict[str, object] = {"quant_type": kind, "blocksize": BLOCK, "dtype": dtype, "shape": (rows, columns)}
    sizes = {"weight": (count + 1) // 2, "absmax": blocks * (1 if nested else 4), "quant_map": CODE_BYTES}
    if nested:
        sizes |= {"nested_absmax": -(-blocks // NESTED_BLOCK) * 4, "nested_quant_map": NESTED_CODE_BYTES}
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": _TYPICAL_OFFSET}
    return sizes | {"quant_state": len(json.dumps(state))}


def _four_bit_format(four: _FourBit, aliases: tuple[str, ...]) -> Format:
    name = f"{four.kind}-dq" if four.nested else four.kind
    scale = Fraction(8, BLOCK) + Fraction(32, BLOCK * NESTED_BLOCK) if four.nested else Fraction(32, BLOCK)
    scales = "8-bit scales of 64, double quantization" if four.nested else "32-bit scales of 64"
    use = " (QLoRA)" if (four.kind, four.nested) == ("nf4", True) else ""
    return Format(
        name=name,
        family="bitsandbytes",
        summary=f"bitsandbytes {four.kind.upper()}{use}: {scales}; head and embeddings 16-bit",
        bits=4 + scale,
        store=_store(name, lambda weight: _four(weight, four)),
        aliases=aliases,
    )


def _store(name: str, quantize: Callable[[Weight], Stored]) -> Callable[[ServedModel], StoredModel]:
    def store(served: ServedModel) -> StoredModel:
        chosen = quantized_weights(served)
        if not chosen:
            raise nothing_to_quantize(name, served.name, served.weights)
        tensors = (quantize(w) if w.name in chosen else keep(w, 2) for w in served.weights)
        return StoredModel(format=name, tensors=tuple(tensors), notes=tuple(_notes(served)))

    return store


def _int8(weight: Weight) -> Stored:
    """int8 rows, one fp32 SCB each; on disk also the uint8 `weight_format`."""
    rows, columns = weight.shape
    size = rows * columns + 4 * rows
    return Stored(
        weight=weight,
        type="int8",
        file_bytes=weight.copies * (size + 1),
        gpu_bytes=weight.copies * size,
    )


def _four(weight: Weight, four: _FourBit) -> Stored:
    """The JSON record is read once and dropped; the nested offset becomes a tensor."""
    rows, columns = weight.shape
    sizes = four_bit_tensors(rows, columns, kind=four.kind, nested=four.nested)
    record = sizes.pop("quant_state")
    gpu = sum(sizes.values()) + (OFFSET_BYTES if four.nested else 0)
    return Stored(
        weight=weight,
        type=f"{four.kind} blocks of {BLOCK}",
        file_bytes=weight.copies * (sum(sizes.values()) + record),
        gpu_bytes=weight.copies * gpu,
    )


def _is_plain_linear(weight: Weight) -> bool:
    """`type(module) is nn.Linear`, or transformers' Conv1D: subclasses of Linear stay as they are."""
    own = weight.classes[:1]
    return own in (("Linear",), ("Conv1D",)) and weight.name.endswith(".weight") and len(weight.shape) == 2


def _skipped(served: ServedModel) -> frozenset[str]:
    """get_keys_to_not_convert: tied weights, the module of the last parameter, the output embeddings."""
    tied = {served.graph.embedding, served.graph.head} if served.tied else set()
    last = {served.weights[-1].module} if served.weights else set()
    return frozenset(tied | last | {served.graph.head})


def _notes(served: ServedModel) -> Iterator[str]:
    yield "Embeddings, head, norms and every matrix that is not exactly a Linear stay 16-bit."
    experts = sum(weight.elements for weight in served.weights if weight.is_expert)
    if not experts or not served.graph.fused_expert_bytes:
        return
    if served.model_type in _SPREAD_EXPERTS:
        yield "transformers spreads the experts of this model out into Linears for bitsandbytes: they are quantized."
    else:
        share = 100 * experts / served.parameters
        yield (
            f"transformers 5 keeps the experts of this model ({share:.0f} % of its weights) as fused tensors, "
            "which bitsandbytes does not quantize: they stay 16-bit."
        )
