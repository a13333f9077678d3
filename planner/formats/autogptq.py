"""GPTQ and AWQ checkpoints as AutoGPTQ, GPTQModel and AutoAWQ write them: the Linears of the decoder layers.

AutoGPTQ auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py `QuantLinear.__init__` (qweight, qzeros, scales, g_idx);
AutoAWQ awq/modules/linear/gemm.py `WQLinear_GEMM.__init__` (qweight, qzeros, scales).
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction

from planner.errors import JobError, UnsupportedError
from planner.formats.plain import keep
from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Stored, StoredModel, Weight, nothing_to_quantize

GPTQ_BITS = (2, 4, 8)
GPTQ_GROUPS = (32, 64, 128, 256, 512, 1024)
AWQ_GROUPS = (32, 64, 128)

_NAME = re.compile(r"(gptq|awq)-(\d+)bit-(\d+)g", re.IGNORECASE)
# Small matrices that decide which expert runs; AutoGPTQ and AutoAWQ name the other layers' insides only.
_ROUTERS = ("gate", "router", "shared_expert_gate")

NOTE = "Linears of the decoder layers are quantized; head, embeddings, norms, routers and vision towers stay 16-bit."


def formats() -> Iterable[Format]:
    """What most published GPTQ and AWQ checkpoints are."""
    yield _format("gptq", 4, 128, ("gptq", "gptq-int4"))
    yield _format("gptq", 4, 32, ())
    yield _format("gptq", 8, 128, ("gptq-int8",))
    yield _format("awq", 4, 128, ("awq",))


def parse(text: str) -> Format | None:
    """`gptq-BITSbit-GROUPg` or `awq-4bit-GROUPg`; raises JobError for numbers that the format does not have."""
    parts = _NAME.fullmatch(text)
    if parts is None:
        return None
    method, bits, group = parts[1].lower(), int(parts[2]), int(parts[3])
    known_bits, known_groups = (GPTQ_BITS, GPTQ_GROUPS) if method == "gptq" else ((4,), AWQ_GROUPS)
    if bits not in known_bits or group not in known_groups:
        raise JobError(f"{text}: {method} has {_any(known_bits)} bits and groups of {_any(known_groups)}")
    return _format(method, bits, group, ())


def matrix_tensors(method: str, rows: int, columns: int, bits: int, group: int) -> dict[str, int]:
    """Bytes of each tensor of one quantized Linear of `rows` outputs and `columns` inputs.

    Numbers are packed into int32, weights of GPTQ along the inputs, all others along the outputs; scales are 16-bit.
    """
    groups = -(-columns // group)
    sizes = {
        "qweight": columns * rows * bits // 8,
        "qzeros": groups * rows * bits // 8,
        "scales": groups * rows * 2,
    }
    return sizes | ({"g_idx": 4 * columns} if method == "gptq" else {})


def _format(method: str, bits: int, group: int, aliases: tuple[str, ...]) -> Format:
    name = f"{method}-{bits}bit-{group}g"
    return Format(
        name=name,
        family="gptq",
        summary=f"{method.upper()} int{bits} with zero points, groups of {group}; head and embeddings 16-bit",
        bits=bits + Fraction(16 + bits, group),
        store=_store(name, method, bits, group),
        aliases=aliases,
    )


def _store(name: str, method: str, bits: int, group: int) -> Callable[[ServedModel], StoredModel]:
    def store(served: ServedModel) -> StoredModel:
        if not any(map(_is_quantized, served.weights)):
            raise nothing_to_quantize(method, served.name, served.weights)
        tensors = (_matrix(w, method, bits, group) if _is_quantized(w) else keep(w, 2) for w in served.weights)
        return StoredModel(format=name, tensors=tuple(tensors), notes=(NOTE,))

    return store


def _matrix(weight: Weight, method: str, bits: int, group: int) -> Stored:
    rows, columns = weight.shape
    if columns % group:
        raise UnsupportedError(f"{method}: groups of {group} do not divide the {columns} columns of {weight.module}")
    if rows % 32 or columns % 32:
        raise UnsupportedError(f"{method}: {weight.module} is {rows} x {columns}; its kernels take multiples of 32")
    size = weight.copies * sum(matrix_tensors(method, rows, columns, bits, group).values())
    return Stored(weight=weight, type=f"int{bits} group {group}", file_bytes=size, gpu_bytes=size, block=(1, group))


def _is_quantized(weight: Weight) -> bool:
    inside = weight.unit == "decoder" and weight.layer is not None
    return inside and weight.is_linear and weight.module.rpartition(".")[2] not in _ROUTERS


def _any(numbers: tuple[int, ...]) -> str:
    *most, last = (str(number) for number in numbers)
    return f"{', '.join(most)} or {last}" if most else last
