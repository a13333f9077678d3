"""The type of a transform's numbers: compressed_tensors utils/type.py TorchDtype takes any name that PyTorch has.

It is the type of matrices that hooks ask for first. One that a weight asks for first is in float64, whatever is written
(factory/hadamard.py `HadamardFactory.create_transform`; matrix_multiply.py `RandomMatrixFactory.create_transform`).
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from planner.errors import RecipeError, UnsupportedError
from planner.hints import shorten
from planner.units import FP32, FP64

TransformType = Literal["hadamard", "random-hadamard", "random-matrix"]

_FLOATING = {"float64": FP64, "float32": FP32, "float16": 2, "bfloat16": 2, "complex64": 8, "complex128": 16}
_WHOLE = {"int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8}
"""Whole numbers, which PyTorch multiplies on a CPU alone."""
WIDTHS = {**_FLOATING, **_WHOLE}
"""Bytes of a number in a matrix."""
_SAVED = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64",
    "int8": "I8", "uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64",
}  # fmt: skip
"""safetensors' names for the types of these matrices."""
ALIASES = {
    "double": "float64", "float": "float32", "half": "float16", "cfloat": "complex64", "cdouble": "complex128",
    "chalf": "complex32", "long": "int64", "int": "int32", "short": "int16",
}  # fmt: skip
UNMADE = frozenset(
    {
        *("bit", "bits1x8", "bits2x4", "bits4x2", "bits8", "bits16", "bool", "complex32", "float4_e2m1fn_x2"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
        *("qint8", "qint32", "quint8", "quint2x4", "quint4x2", "uint16", "uint32", "uint64"),
    }
)
"""Types without what a matrix is made or multiplied with: utils/hadamard.py negates and draws signs."""


def _named(precision: Any) -> str:
    """PyTorch's own name of the type that is written."""
    name = str(precision).removeprefix("torch.")
    name = ALIASES.get(name, name)
    if not isinstance(precision, str) or name not in {*WIDTHS, *UNMADE}:
        raise ValueError(f"PyTorch has no type {shorten(name)}")
    return name


Precision = Annotated[str, BeforeValidator(_named)]


def check_made(kind: TransformType, dtype: str, where: str) -> None:
    """A hook asks for a matrix of this type: RecipeError where there can be none. `where`: the path of the group, or of
    the modifier."""
    is_drawn = not (dtype.startswith("complex") if kind == "random-hadamard" else dtype in _WHOLE)
    if dtype in UNMADE or (kind != "hadamard" and not is_drawn):
        text = f"PyTorch makes no {kind} matrix of {dtype}, or multiplies none: LLM Compressor stops"
        raise RecipeError(text, f"{where}.precision")


def check_multiplied(dtype: str, where: str) -> None:
    """A matrix of this type is multiplied on a GPU, RecipeError where it cannot be: "addmm_cuda" of ATen, and its
    "baddbmm_cuda", are not implemented for whole numbers."""
    if dtype in _WHOLE:
        text = f"PyTorch multiplies no {dtype} on a GPU: LLM Compressor stops (NotImplementedError)"
        raise RecipeError(text, f"{where}.precision")


def quotient_width(dtype: str) -> int:
    """Bytes of a number of this type once it is divided by one in float64, which is no tensor with sides."""
    return FP64 if dtype in _WHOLE else WIDTHS[dtype]


def is_cast(itemsize: int, own: str, dtype: str) -> bool:
    """Whether a value of so many bytes a number is of another type than `dtype`; one of 16 bit is of the type `own`."""
    return dtype in _WHOLE or itemsize != WIDTHS[dtype] or (itemsize == 2 and dtype != own)


def is_saved(dtype: str) -> bool:
    """safetensors/torch.py `_TYPES` has a name for it."""
    return dtype in _SAVED


def saved_type(dtype: str, where: str) -> str:
    """What safetensors calls it. UnsupportedError where it has no name for it."""
    if not is_saved(dtype):
        text = f"safetensors saves no {dtype}, and the result is not sized"
        raise UnsupportedError(f"{where}.precision: {text}")
    return _SAVED[dtype]
