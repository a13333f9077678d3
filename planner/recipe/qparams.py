"""Scales and zero points: how many there are, and the bytes that a module stores them in."""

from planner.errors import UnsupportedError
from planner.recipe.dtypes import zero_point_itemsize
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule


def scale_count(rows: int, columns: int, args: QuantArgs) -> int:
    """Number of scales of a (rows, columns) weight; compressed_tensors lifecycle/initialize.py."""
    match args.strategy:
        case "tensor":
            return 1
        case "channel":
            return rows
        case "group" | "tensor_group":
            return rows * -(-columns // _group_size(args))
        case "block":
            height, width = args.block_structure or (128, 128)
            return -(-rows // height) * -(-columns // width)
        case _:
            raise UnsupportedError(f"weights cannot be quantized with strategy {args.strategy}")


def _group_size(args: QuantArgs) -> int:
    if not args.group_size or args.group_size < 1:
        raise UnsupportedError(f"strategy {args.strategy} needs a positive group_size, not {args.group_size}")
    return args.group_size


def weight_qparam_bytes(module: LinearModule) -> dict[str, int]:
    """Stored bytes of a weight's qparams: lifecycle/initialize.py initialize_qparams.

    Scales have the weight's dtype whatever scale_dtype says; zero points are always there
    (force_zero_point), with zp_dtype.
    """
    args = module.scheme.weights if module.scheme else None
    if args is None:
        return {}
    count = scale_count(module.rows, module.columns, args)
    sizes = {"scale": count * module.itemsize, "zero_point": count * zero_point_itemsize(args)}
    if args.strategy == "tensor_group":
        sizes["global_scale"] = 4
    return sizes


def activation_qparam_sizes(module: LinearModule, args: QuantArgs | None) -> dict[str, int]:
    """Stored bytes of an activation's qparams; none for fully dynamic ones."""
    if args is None or args.dynamic is True:
        return {}
    fixed = {"global_scale": 4} if args.strategy == "tensor_group" else {}
    if args.dynamic == "local":
        return fixed
    if module.heads:
        return _state_qparam_sizes(module, args)
    columns = module.columns
    count = columns // args.group_size if args.strategy in ("group", "tensor_group") and args.group_size else 1
    return {"scale": count * module.itemsize, "zero_point": count * zero_point_itemsize(args), **fixed}


def _state_qparam_sizes(module: LinearModule, args: QuantArgs) -> dict[str, int]:
    """initialize.py initialize_attn_qparams: kv_cache_scheme alone forces no zero points (apply.py)."""
    count = module.heads if args.strategy == "attn_head" else 1
    sizes = {"scale": count * module.itemsize}
    return {**sizes, "zero_point": count * zero_point_itemsize(args)} if module.has_zero_point else sizes


def qparam_sizes(module: LinearModule) -> list[int]:
    """Bytes of every tensor of qparams that initialize_quantization registers on a module."""
    if module.scheme is None:
        return []
    activations = (module.scheme.input_activations, module.scheme.output_activations)
    sizes = [weight_qparam_bytes(module), *(activation_qparam_sizes(module, args) for args in activations)]
    return [nbytes for each in sizes for nbytes in each.values()]


def qparam_bytes(module: LinearModule) -> int:
    """All qparams that initialize_quantization registers on a module."""
    return sum(qparam_sizes(module))
