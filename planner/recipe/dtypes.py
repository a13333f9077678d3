"""Bytes per element of the dtypes that schemes name."""

from planner.errors import UnsupportedError
from planner.recipe.specs import QuantArgs

ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "float8_e8m0fnu": 1, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


def itemsize(dtype: str) -> int:
    """Bytes of one element; raises UnsupportedError for a dtype not known here."""
    try:
        return ITEMSIZE[dtype]
    except KeyError:
        raise UnsupportedError(f"dtype {dtype} is not known to the planner; known: {', '.join(ITEMSIZE)}") from None


def zero_point_itemsize(args: QuantArgs) -> int:
    """Bytes of one zero point; compressed-tensors fills in zp_dtype, by default int8."""
    return itemsize(args.zp_dtype or "int8")
