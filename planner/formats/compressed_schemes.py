"""What compressed-tensors 0.19 writes for one quantized module: each tensor of its state dict, in bytes.

Mirrors compressed_tensors/compressors/format.py `infer_module_format` (which compressor takes a scheme), the
`compress` of each compressor, and quantization/lifecycle/initialize.py `initialize_qparams` (which scales and zero
points there are). A test runs the real compressors beside it.
"""

from typing import Literal

from planner.errors import UnsupportedError
from planner.recipe.dtypes import itemsize, zero_point_itemsize
from planner.recipe.qparams import scale_count
from planner.recipe.specs import QuantArgs, Scheme

Storage = Literal[
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "nvfp4-pack-quantized",
    "int-quantized",
    "pack-quantized",
    "float-quantized",
    "naive-quantized",
    "dense",
]

SHAPE_BYTES = 16  # pack_quantized/base.py: weight_shape, two int64
GLOBAL_SCALE_BYTES = 4


def storage_of(scheme: Scheme) -> Storage:
    """The compressor that takes this scheme: the first that can, in COMPRESSION_FORMAT_PRIORITY."""
    weights = scheme.weights
    if weights is None:
        return "dense"
    if weights.type == "float":
        return _float_storage(weights, scheme.input_activations)
    if scheme.input_activations is not None:
        return "int-quantized"  # 4-bit weights too: IntQuantizationCompressor comes before the packing one
    return "pack-quantized" if weights.num_bits <= 8 else "naive-quantized"


def module_bytes(rows: int, columns: int, scheme: Scheme, dtype_bytes: int = 2) -> int:
    """Bytes of a Linear's or Embedding's weight with all that its scheme adds."""
    return sum(module_tensors(rows, columns, scheme, dtype_bytes).values())


def module_tensors(rows: int, columns: int, scheme: Scheme, dtype_bytes: int = 2) -> dict[str, int]:
    """The tensors of a compressed module (bias left out) by name, in bytes.

    `dtype_bytes` is the model's own width, which scales have unless the compressor narrows them. Raises
    UnsupportedError for a scheme that the library has no compressor for.
    """
    storage = storage_of(scheme)
    weights = scheme.weights
    if weights is None:
        sizes = {"weight": rows * columns * dtype_bytes}
    else:
        _check(weights, columns, storage)
        sizes = _weight(rows, columns, weights, storage) | _weight_qparams(rows, columns, weights, storage, dtype_bytes)
    dense = storage == "dense"  # dense/base.py returns the state dict as it is, zero points of zero included
    sizes |= _activation_qparams("input", columns, scheme.input_activations, dtype_bytes, dense)
    return sizes | _activation_qparams("output", rows, scheme.output_activations, dtype_bytes, dense)


def describe(scheme: Scheme) -> str:
    """What a weight is kept as, in a few words: `int4 group 128`."""
    weights = scheme.weights
    if weights is None:
        return "not quantized"
    storage = storage_of(scheme)
    if storage.startswith(("mxfp", "nvfp")):
        return f"{storage.partition('-')[0]} group {weights.group_size}"
    kind = "fp" if weights.type == "float" else "int"
    size = f" {weights.group_size}" if weights.strategy == "group" else ""
    if weights.strategy == "block" and weights.block_structure:
        size = " {}x{}".format(*weights.block_structure)
    wide = " in int8" if storage == "int-quantized" and weights.num_bits < 8 else ""
    return f"{kind}{weights.num_bits}{wide} {weights.strategy}{size}"


def block_of(scheme: Scheme) -> tuple[int, int] | None:
    """Outputs and inputs of a weight that share a scale; None where whole rows or the tensor do."""
    weights = scheme.weights
    if weights is None:
        return None
    if weights.strategy == "block" and weights.block_structure:
        return weights.block_structure
    return (1, weights.group_size) if weights.group_size and weights.group_size > 1 else None


def _float_storage(weights: QuantArgs, inputs: QuantArgs | None) -> Storage:
    group = weights.group_size
    if weights.num_bits == 4 and group == 32:
        return "mxfp4-pack-quantized"
    if weights.num_bits == 8 and group == 32 and weights.scale_dtype == "uint8":
        return "mxfp8-quantized"
    if weights.num_bits == 4 and group == 16:
        return "nvfp4-pack-quantized"
    return "float-quantized" if inputs is not None else "naive-quantized"


def _check(weights: QuantArgs, columns: int, storage: Storage) -> None:
    if weights.dynamic is True:
        raise UnsupportedError("compressed-tensors cannot store weights whose scales are dynamic: it has no scale")
    if weights.type == "float" and weights.num_bits != 8 and storage in ("float-quantized", "naive-quantized"):
        # The library fails on saving: quant_args.py pytorch_dtype knows no type for it (NotImplementedError).
        raise UnsupportedError(
            f"compressed-tensors stores 4-bit floats in groups of 16 or 32 only, not group_size {weights.group_size}"
        )
    if storage in ("nvfp4-pack-quantized", "mxfp4-pack-quantized") and columns % 2:
        raise UnsupportedError(f"compressed-tensors packs 4-bit floats in pairs: {columns} columns are odd")


def _weight(rows: int, columns: int, weights: QuantArgs, storage: Storage) -> dict[str, int]:
    """The numbers themselves."""
    if storage == "pack-quantized":  # helpers.py pack_to_int32: every row filled up to whole int32
        return {"weight_packed": rows * _words(columns, weights.num_bits), "weight_shape": SHAPE_BYTES}
    if storage in ("nvfp4-pack-quantized", "mxfp4-pack-quantized"):
        return {"weight_packed": rows * columns // 2}
    if weights.type == "float":
        return {"weight": rows * columns}
    width = 1 if weights.num_bits <= 8 else 2 if weights.num_bits <= 16 else 4  # quant_args.py pytorch_dtype
    return {"weight": rows * columns * width}


def _weight_qparams(rows: int, columns: int, weights: QuantArgs, storage: Storage, dtype_bytes: int) -> dict[str, int]:
    count = scale_count(rows, columns, weights)
    sizes = {"weight_scale": count * _scale_width(weights, storage, dtype_bytes)}
    if weights.strategy == "tensor_group":
        sizes["weight_global_scale"] = GLOBAL_SCALE_BYTES
    if not weights.symmetric:  # base.py _remove_symmetric_zp drops the others
        packed = storage == "pack-quantized" and weights.strategy in ("group", "channel")  # PACK_ZP_STRATS
        points = count // rows * _words(rows, weights.num_bits) if packed else count * zero_point_itemsize(weights)
        sizes["weight_zero_point"] = points
    return sizes


def _scale_width(weights: QuantArgs, storage: Storage, dtype_bytes: int) -> int:
    """nvfp4/base.py, mxfp4/base.py, mxfp8/base.py _compress_scale; elsewhere scales keep the model's type."""
    if storage.startswith(("mxfp", "nvfp")):
        return itemsize(weights.scale_dtype) if weights.scale_dtype else 1
    return dtype_bytes


def _activation_qparams(name: str, width: int, args: QuantArgs | None, dtype_bytes: int, dense: bool) -> dict[str, int]:
    """Static scales of inputs or outputs that are `width` wide; a global scale alone where they are half dynamic."""
    if args is None or args.dynamic is True:
        return {}
    sizes = {f"{name}_global_scale": GLOBAL_SCALE_BYTES} if args.strategy == "tensor_group" else {}
    if args.dynamic == "local":
        return sizes
    grouped = args.strategy in ("group", "tensor_group") and args.group_size
    count = -(-width // args.group_size) if grouped and args.group_size else 1
    sizes[f"{name}_scale"] = count * dtype_bytes
    if dense or not args.symmetric:
        sizes[f"{name}_zero_point"] = count * zero_point_itemsize(args)
    return sizes


def _words(count: int, bits: int) -> int:
    """Bytes of the int32 that hold `count` numbers of `bits` bits."""
    return 4 * -(-count * bits // 32)
