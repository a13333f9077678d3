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

WIDTHS = {"float64": FP64, "float32": FP32, "float16": 2, "bfloat16": 2, "complex64": 8}
"""Bytes of a number in the matrices that are planned."""
SAVED = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64"}
"""safetensors' names for the types of these matrices."""
WHOLE = frozenset({"int8", "int16", "int32", "int64", "uint8"})
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
    if not isinstance(precision, str) or name not in {*WIDTHS, *WHOLE, *UNMADE, "complex128"}:
        raise ValueError(f"PyTorch has no type {shorten(name)}")
    return name


Precision = Annotated[str, BeforeValidator(_named)]


def check_made(kind: TransformType, dtype: str, where: str) -> None:
    """A hook asks for a matrix of this type: RecipeError where there can be none, UnsupportedError where planner has no
    model. `where`: the path of the group, or of the modifier."""
    draws = kind != "hadamard"
    drawn = {*WIDTHS, "complex128"} if kind == "random-matrix" else WIDTHS.keys() | WHOLE
    is_complex = dtype.startswith("complex")
    if dtype in UNMADE or (draws and dtype not in drawn) or (kind == "random-hadamard" and is_complex):
        text = f"PyTorch makes no {kind} matrix of {dtype}, or multiplies none: LLM Compressor stops"
        raise RecipeError(text, f"{where}.precision")
    if dtype not in WIDTHS:
        why = "; on a GPU PyTorch multiplies none, so that LLM Compressor stops there" if dtype in WHOLE else ""
        raise UnsupportedError(f"{where}.precision: planner models {', '.join(WIDTHS)}, not {dtype}{why}")
