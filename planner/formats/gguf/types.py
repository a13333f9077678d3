"""The ggml types: bytes of a block, bits of a weight, bytes of a row. Tables of the `gguf` package."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from math import prod

from planner.errors import UnsupportedError

# What llama.cpp computes and indexes with, not what weights are kept in.
_NOT_WEIGHTS = {"F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"}
FLOATS = ("F32", "F16", "BF16")


@cache
def blocks() -> Mapping[str, tuple[int, int]]:
    """Weights and bytes of one block, by type name (`gguf.GGML_QUANT_SIZES`)."""
    import gguf

    return {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}


@cache
def weight_types() -> tuple[str, ...]:
    """Types that a matrix can be kept in, floats last."""
    quantizing = [name for name in blocks() if name not in _NOT_WEIGHTS and name not in FLOATS]
    return (*quantizing, *FLOATS)


def is_quantized(kind: str) -> bool:
    """Whether weights share a block (ggml `ggml_is_quantized`)."""
    return kind not in FLOATS


def bits(kind: str) -> Fraction:
    """Bits of one weight, the block's scales included."""
    weights, size = _block(kind)
    return Fraction(8 * size, weights)


def fits(kind: str, columns: int) -> bool:
    """Whether whole blocks fill a row."""
    return columns % _block(kind)[0] == 0


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of a row (ggml `ggml_row_size`). Raises UnsupportedError where blocks do not fill it."""
    weights, size = _block(kind)
    if columns % weights:
        raise UnsupportedError(f"{kind}: blocks of {weights} weights do not divide a row of {columns}; take F16")
    return columns // weights * size


def tensor_bytes(kind: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor whose last axis are the rows' columns."""
    return prod(shape[:-1]) * row_bytes(kind, shape[-1])


def _block(kind: str) -> tuple[int, int]:
    if kind not in blocks():
        raise UnsupportedError(f"the gguf package knows no ggml type {kind!r}; it has {', '.join(weight_types())}")
    return blocks()[kind]
