"""Quantize and dequantize a tensor at once, allocation by allocation.

Mirrors compressed_tensors/quantization/lifecycle/{forward,forward_helpers}.py and quant_args.py. What is returned has
the weight's dtype; what is computed has the wider of the weight's and the scale's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from planner.compress.context import Frame
from planner.recipe.qparams import scale_count
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from planner.units import FP32


def fake_quantized(frame: Frame, module: LinearModule, args: QuantArgs) -> Handle:
    """forward.py fake_quantize of the module's weight with the scales that it has; the caller frees what it returns."""
    if args.strategy == "block":
        return _in_whole_blocks(frame, module, args)
    numel = module.rows * module.columns
    return quantized_values(frame, args, numel, scale_count(module.rows, module.columns, args), module.itemsize)


def _in_whole_blocks(frame: Frame, module: LinearModule, args: QuantArgs) -> Handle:
    """forward_helpers.py _process_block: a weight that is no whole number of blocks is padded, and cut at the end."""
    height, width = args.block_structure or (128, 128)
    rows, columns = -(-module.rows // height) * height, -(-module.columns // width) * width
    if (rows, columns) != (module.rows, module.columns):
        frame.assign("padded", rows * columns * module.itemsize)
    count = scale_count(module.rows, module.columns, args)
    output = quantized_values(frame, args, rows * columns, count, module.itemsize)
    frame.delete("padded")
    return output


def quantized_values(
    frame: Frame, args: QuantArgs, numel: int, count: int, itemsize: int, *, has_zero_point: bool = True
) -> Handle:
    """forward_helpers.py _quantize_dequantize of `numel` numbers with `count` scales; the caller frees what it returns.

    _process_group casts its result to the numbers' own dtype. Without a zero point nothing is shifted, so that what is
    dequantized is what was rounded.
    """
    small, wide = itemsize, itemsize
    if args.strategy == "tensor_group":  # scale / global_scale: both are fp32 by now
        wide = FP32
        frame.assign("scale", count * FP32)
    frame.assign("scaled", numel * wide)
    if has_zero_point:
        frame.temporary(count * small, "zero_point.to(x.dtype)")
    with _rounded(frame, args, numel, wide):
        if has_zero_point:
            with frame.during(count * wide, "zero_point.to(scale.dtype)"):
                frame.assign("dequant", numel * wide)
        frame.assign("output", numel * wide)
        frame.delete("scaled")
    frame.delete("dequant", "scale")
    if wide != small:
        frame.assign("output", numel * small)
    return frame.hand_over("output")


@contextmanager
def _rounded(frame: Frame, args: QuantArgs, numel: int, itemsize: int) -> Iterator[None]:
    """quant_args.py round_to_quantized_type_args: clamped, then rounded; what is left lives as long as the block."""
    frame.assign("clamped", numel * itemsize)
    if args.type == "float" and args.num_bits == 4:  # fp4_utils.py cast_to_fp4_triton rounds in place
        frame.move("clamped", "quantized")
    elif args.type == "float":
        with frame.during(numel, "rounded to fp8"):
            frame.assign("quantized", numel * itemsize)
        frame.delete("clamped")
    else:
        frame.assign("quantized", numel * itemsize)
        frame.delete("clamped")
    yield
    frame.delete("quantized")
