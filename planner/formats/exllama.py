"""EXL2 and EXL3: an average number of bits per weight in the decoder layers, and bits of the head.

EXL2: turboderp-org/exllamav2 exllamav2/conversion/{convert_exl2,optimize,qparams,adaptivegptq,compile}.py, linear.py,
ext.py. EXL3: turboderp-org/exllamav3 exllamav3/conversion/{convert_model,allocation}.py, modules/linear.py,
modules/quant/exl3.py.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from planner.errors import JobError, UnsupportedError
from planner.formats.exllama_models import EXL2_MODELS, EXL3_MODELS
from planner.formats.plain import keep
from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Stored, StoredModel, Weight, nothing_to_quantize

Method = Literal["exl2", "exl3"]

HEAD_BITS = 6  # convert_exl2.py, convert_model.py: the default of --head_bits
LIMITS: dict[Method, tuple[int, int]] = {"exl2": (2, 8), "exl3": (1, 8)}
COMMON: dict[Method, tuple[str, ...]] = {
    "exl2": ("2.55", "3.0", "3.5", "4.0", "4.5", "5.0", "6.0", "8.0"),
    "exl3": ("2.0", "2.5", "3.0", "3.5", "4.0", "5.0", "6.0", "8.0"),
}
EXL3_PADDING = 128  # modules/linear.py pad_to
EXL3_MARK_BYTES = 4  # `mcg` or `mul1`, the multiplier of the codebook
GROUP_MAP_BYTES = 4  # ext.py make_group_map: two int16 for each row, on the GPU alone

_NAME = re.compile(r"(exl2|exl3)(?::(\d+(?:\.\d+)?)(?::h(\d+))?)?", re.IGNORECASE)
_ROUTERS = ("gate", "router", "shared_expert_gate")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExlMixture:
    """qparams.py QParams: shares of a matrix's rows at so many bits, in groups of so many rows."""

    groups: tuple[int, ...]
    bits: tuple[int, ...]
    shares: tuple[float, ...]

    def total_bits(self, rows: int, columns: int) -> int:
        """qparams.py total_bits: weights, 4-bit scales, a 16-bit scale and 32 bits of map a group, 32 bits a row."""
        total, groups, left = 32 * rows, 0, rows
        for group, bits, share in zip(self.groups, self.bits, self.shares, strict=True):
            count = math.ceil(min(rows * share, max(left, 0)) / group)
            taken = min(count * group, max(left, 0))
            total += taken * columns * bits
            groups += count
            left -= count * group
        return total + groups * (16 + 32 + 4 * columns)


# qparams.py qparams_headoptions
HEADS = {
    2: ExlMixture(groups=(32, 32), bits=(4, 2), shares=(0.3, 0.7)),
    3: ExlMixture(groups=(32, 32), bits=(4, 3), shares=(0.15, 0.85)),
    4: ExlMixture(groups=(32, 32), bits=(6, 4), shares=(0.15, 0.85)),
    5: ExlMixture(groups=(128, 128), bits=(6, 5), shares=(0.15, 0.85)),
    6: ExlMixture(groups=(128, 128), bits=(8, 6), shares=(0.15, 0.85)),
    8: ExlMixture(groups=(128,), bits=(8,), shares=(1.0,)),
}
EXL3_HEADS = (*range(1, 9), 16)
# The first, smallest options of qparams.py qparams_attn and qparams_mlp; the last matrix of an MLP gets more.
_LEAST = ExlMixture(groups=(64, 64), bits=(3, 2), shares=(0.05, 0.95))
_LEAST_DOWN = ExlMixture(groups=(32, 64, 64), bits=(6, 3, 2), shares=(0.05, 0.2, 0.75))

_EXL2_NOTES = (
    "EXL2 spreads its bits by what it measures on the real weights: the sum is known, a single matrix is shown at "
    "the average.",
    "ExLlamaV2 keeps the token embeddings in CPU memory, in 16-bit floats.",
)
_EXL3_NOTES = (
    "EXL3 gives each matrix a whole number of bits: the average is what all of them together keep to.",
    "ExLlamaV3 keeps the token embeddings in CPU memory, in 16-bit floats.",
)


def formats() -> Iterable[Format]:
    """Common averages; `exl2:2.4` and `exl3:3.25:h8` are made by `parse`."""
    for method, numbers in COMMON.items():
        for number in numbers:
            yield _format(method, number, HEAD_BITS)


def parse(text: str) -> Format | None:
    """`exl2:BITS` or `exl3:BITS`, with head bits like `exl2:4.25:h8` where they are not 6.

    Raises JobError for numbers that the converters do not take.
    """
    parts = _NAME.fullmatch(text)
    if parts is None:
        if text.lower().startswith(("exl2", "exl3")):
            raise JobError(f"{text!r}: write the average bits per weight like exl2:4.0, with head bits exl2:4.0:h8")
        return None
    method: Method = "exl2" if parts[1].lower() == "exl2" else "exl3"
    if parts[2] is None:
        raise JobError(f"{text!r} has no bits per weight; write it like {method}:4.0")
    low, high = LIMITS[method]
    if not low <= Fraction(parts[2]) <= high:
        raise JobError(f"{text!r}: {method.upper()} takes {low} to {high} bits per weight")
    head = int(parts[3] or HEAD_BITS)
    heads = tuple(HEADS) if method == "exl2" else EXL3_HEADS
    if head not in heads:
        raise JobError(f"{text!r}: {method.upper()} has heads of {', '.join(map(str, heads))} bits")
    return _format(method, parts[2], head)


def _format(method: Method, number: str, head: int) -> Format:
    name = f"{method}:{number}" + ("" if head == HEAD_BITS else f":h{head}")
    return Format(
        name=name,
        family="exllama",
        summary=f"{method.upper()}, {number} bits per weight in the layers, {head} in the head; embeddings 16-bit",
        bits=Fraction(number),
        store=_store(name, method, Fraction(number), head),
    )


def _store(name: str, method: Method, bits: Fraction, head: int) -> Callable[[ServedModel], StoredModel]:
    matrix = _exl2_matrix if method == "exl2" else _exl3_matrix
    make_head = _exl2_head if method == "exl2" else _exl3_head

    def store(served: ServedModel) -> StoredModel:
        _check_model(served, method)
        if not any(map(_in_layer, served.weights)):
            raise nothing_to_quantize(method, served.name, served.weights)
        if method == "exl2":
            _check_least(served, bits, name)
        tensors = tuple(
            _stored(w, served, lambda w: matrix(w, bits), lambda w: make_head(w, head)) for w in served.weights
        )
        return StoredModel(format=name, tensors=tensors, notes=_EXL2_NOTES if method == "exl2" else _EXL3_NOTES)

    return store


def _stored(
    weight: Weight, served: ServedModel, matrix: Callable[[Weight], Stored], head: Callable[[Weight], Stored]
) -> Stored:
    if weight.module == served.graph.embedding:
        table = keep(weight, 2, on_cpu=True)
        return _with_head(table, head(weight)) if served.tied else table
    if weight.module == served.graph.head and weight.is_linear:
        return head(weight)
    return matrix(weight) if _in_layer(weight) else keep(weight, 2)


def _with_head(table: Stored, head: Stored) -> Stored:
    """A tied table is stored twice: as it is for the embedding, quantized for the head."""
    return Stored(
        weight=table.weight,
        type=f"{table.type}, and the head in {head.type}",
        file_bytes=table.file_bytes + head.file_bytes,
        gpu_bytes=head.gpu_bytes,
        cpu_bytes=table.cpu_bytes,
    )


def _in_layer(weight: Weight) -> bool:
    """A Linear of attention or MLP; routers stay 16-bit."""
    return weight.unit == "decoder" and weight.is_linear and weight.module.rpartition(".")[2] not in _ROUTERS


# ---------------------------------------------------------------------- EXL2
def _exl2_matrix(weight: Weight, bits: Fraction) -> Stored:
    """optimize.py: the budget is numel x bits, and total_bits counts scales, maps and permutation too."""
    size = int(weight.elements * bits / 8)
    return Stored(
        weight=weight,
        type=f"EXL2 {float(bits):g} bits",
        file_bytes=size,
        gpu_bytes=size + GROUP_MAP_BYTES * weight.shape[1] * weight.copies,
    )


def _exl2_head(weight: Weight, head: int) -> Stored:
    """compile.py get_q_module; linear.py pads the vocabulary to a multiple of 32."""
    columns = -(-weight.shape[0] // 32) * 32
    size = HEADS[head].total_bits(weight.shape[1], columns) // 8
    gpu = size + GROUP_MAP_BYTES * weight.shape[1]
    return Stored(weight=weight, type=f"EXL2 {head} bits", file_bytes=size, gpu_bytes=gpu)


def least_bits(served: ServedModel) -> Fraction:
    """Average bits of the smallest choice that ExLlamaV2 has for every matrix of this model."""
    layers = [weight for weight in served.weights if _in_layer(weight)]
    total = sum(_least(weight).total_bits(weight.shape[1], weight.shape[0]) * weight.copies for weight in layers)
    return Fraction(total, max(1, sum(weight.elements for weight in layers)))


def _least(weight: Weight) -> ExlMixture:
    return _LEAST_DOWN if weight.module.rpartition(".")[2] in ("down_proj", "w2", "fc2", "c_proj") else _LEAST


def _check_least(served: ServedModel, bits: Fraction, name: str) -> None:
    least = least_bits(served)
    if bits < least:
        raise JobError(
            f"{name}: the smallest EXL2 of {served.name} has {math.ceil(100 * least) / 100:.2f} bits per weight"
        )


# ---------------------------------------------------------------------- EXL3
def _exl3_matrix(weight: Weight, bits: Fraction) -> Stored:
    rows, columns = weight.shape
    size = weight.copies * sum(exl3_tensors(rows, columns, bits).values())
    return Stored(weight=weight, type=f"EXL3 {float(bits):g} bits", file_bytes=size, gpu_bytes=size)


def _exl3_head(weight: Weight, head: int) -> Stored:
    if head == 16:
        return keep(weight, 2)
    size = sum(exl3_tensors(weight.shape[0], weight.shape[1], Fraction(head)).values())
    return Stored(weight=weight, type=f"EXL3 {head} bits", file_bytes=size, gpu_bytes=size)


def exl3_tensors(rows: int, columns: int, bits: Fraction) -> dict[str, int]:
    """Bytes of each tensor of a Linear of `rows` outputs and `columns` inputs, both padded to 128.

    exl3.py LinearEXL3.get_tensors: trellis int16, suh and svh fp16, and the multiplier of the codebook
    (`mcg`, or `mul1` of the same size).
    """
    outputs, inputs = (-(-side // EXL3_PADDING) * EXL3_PADDING for side in (rows, columns))
    return {"trellis": int(outputs * inputs * bits / 8), "suh": 2 * inputs, "svh": 2 * outputs, "mcg": EXL3_MARK_BYTES}


def _check_model(served: ServedModel, method: Method) -> None:
    known = EXL2_MODELS if method == "exl2" else EXL3_MODELS
    if served.architecture not in known:
        engine = "ExLlamaV2" if method == "exl2" else "ExLlamaV3"
        raise UnsupportedError(f"{method}: {engine} has no code for {served.architecture} ({served.name})")
