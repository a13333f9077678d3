"""Scales and zero points, allocation by allocation: compressed_tensors quantization/utils/helpers.py calculate_qparams.

`count` is the number of scales, `itemsize` the bytes of an element of the observed tensor, whose dtype they keep.
Tensors of one element are modelled for a CUDA build alone, where each takes a block of the allocator.
"""

from dataclasses import dataclass

from planner.compress.context import Frame
from planner.recipe.dtypes import itemsize, zero_point_itemsize
from planner.recipe.specs import QuantArgs
from planner.timeline import Handle
from planner.units import FP32


@dataclass(slots=True)
class QParams:
    """What `Observer.get_qparams` returns."""

    scale: Handle
    zero_point: Handle
    global_scale: Handle | None
    scale_bytes: int
    zero_point_bytes: int

    @property
    def handles(self) -> list[Handle]:
        return [h for h in (self.scale, self.zero_point, self.global_scale) if h is not None]


def calculate_qparams(
    frame: Frame, count: int, itemsize: int, args: QuantArgs, *, rounded: bool = True, has_global: bool = False
) -> QParams:
    """Scales and zero points of `count` groups; `rounded=False` leaves out scale_dtype.

    `has_global`: a global scale is there already (compute_dynamic_scales_and_zp); else it is made here if there is one.
    """
    small = count * itemsize
    for name in ("mins", "maxs"):
        with frame.during(small, "zeros"):
            frame.assign(name, small)
    _bit_range(frame, args)
    if args.symmetric:
        with frame.during(small, "abs(min)"), frame.during(small, "abs(max)"):
            frame.assign("max_val_pos", small)
        with frame.single(itemsize, "bit_range.to(dtype)"), frame.single(itemsize, "bit_range / 2"):
            frame.assign("scale", small)
        frame.assign("zero_point", small)
    else:
        with frame.during(small, "range"), frame.single(itemsize, "bit_range.to(dtype)"):
            frame.assign("scale", small)
        with frame.during(small, "min / scale"):
            frame.assign("zero_point", small)
        frame.assign("zero_point", small)
    is_scaled = args.strategy == "tensor_group" and rounded
    width = 4 if is_scaled else itemsize  # a (1,) fp32 global scale promotes the scales to fp32
    if is_scaled:
        frame.assign("scale", count * 4)
    if args.scale_dtype is not None and rounded:
        _round_scale(frame, count, width, args.scale_dtype)
    with frame.during(count, "scale == 0"), frame.single(width, "eps"):
        frame.assign("without zeros", count * width, label="scale")
    frame.move("without zeros", "scale")
    zero_bytes = _round_zero_point(frame, count, itemsize, args)
    global_scale = frame.assign("global_scale", 4) if is_scaled and not has_global else None
    if global_scale is not None:
        frame.hand_over("global_scale")
    result = QParams(frame.hand_over("scale"), frame.hand_over("zero_point"), global_scale, count * width, zero_bytes)
    frame.delete("mins", "maxs", "max_val_pos", "bit_range")
    return result


def _bit_range(frame: Frame, args: QuantArgs) -> None:
    """helpers.py _calculate_range keeps both ends for the rest of the process, for each type of number and device."""
    if frame.build is not None:
        frame.once(f"range of {args.type}{args.num_bits}", FP32, FP32)
        frame.assign("bit_range", FP32)


def _round_scale(frame: Frame, count: int, width: int, dtype: str) -> None:
    """quant_args.py round_to_quantized_type_dtype: cast to the scale dtype and back."""
    with frame.during(count * width, "clamped scale"):
        frame.assign("rounded scale", count * itemsize(dtype))
    frame.assign("scale", count * width)
    frame.delete("rounded scale")


def _round_zero_point(frame: Frame, count: int, width: int, args: QuantArgs) -> int:
    """Round zero points to their dtype; returns their bytes."""
    target = zero_point_itemsize(args)
    is_float = (args.zp_dtype or "int8").startswith("float")
    with frame.during(count * width, "clamped zero_point"):
        if is_float:
            frame.assign("zero_point", count * target)
        else:
            with frame.during(count * width, "rounded zero_point"):
                pass
            frame.assign("zero_point", count * target)
    return count * target
