"""The search for the range with the least error, as eager PyTorch runs it, allocation by allocation.

Every candidate range is tried by quantizing the whole observed tensor and back, so the search holds several copies of
it. iMatrix always searches so; the MSE observers do where their Triton kernels do not run: on the CPU, and for
integers of more than 8 bits. All candidates take the same, and the second one finds what the first left behind.

Mirrors llmcompressor/observers/imatrix.py `_grid_search`, llmcompressor/observers/mse_quant.py `_grid_search_mse` and
compressed_tensors quantization/lifecycle/forward_helpers.py `_quantize_dequantize`. `count` is the number of scales,
`itemsize` the bytes of an element of the observed tensor.
"""

from dataclasses import dataclass

from planner.compress.context import Frame
from planner.compress.qparams import calculate_qparams
from planner.cuda import indexing, reductions
from planner.cuda.operands import Operand, OperatorCall
from planner.cuda.requests import Requests, temporaries
from planner.recipe.specs import QuantArgs
from planner.units import FP32

CANDIDATES = 2
"""Candidates walked: the first one, and one that finds its leftovers. All after it find the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """An observed tensor of shape (observations, count, group): extremes are taken over the first and last side."""

    observations: int
    count: int
    group: int
    itemsize: int

    @property
    def values(self) -> int:
        return self.observations * self.count * self.group

    @property
    def small(self) -> int:
        """Bytes of one extreme of every scale."""
        return self.count * self.itemsize


def take_extreme(frame: Frame, name: str, observed: Observed) -> None:
    """name = torch.amin(observed, dim=(0, -1))"""
    frame.assign(name, observed.small)
    if frame.build is not None:
        shape = (observed.observations, observed.count, observed.group)
        frame.operator(temporaries(*reductions.extreme_buffers(shape, observed.itemsize, frame.build)), name)


def search_imatrix(frame: Frame, args: QuantArgs, observed: Observed, *, importances: int = 0) -> None:
    """Leave min_vals and max_vals in `frame`: imatrix.py update_statistics_from_observed, _grid_search.

    `importances`: length of the vector that weighs the errors, of which all weights are a view; 0 without one. Errors
    are squared in place.
    """
    if importances:
        _importance(frame, importances)
    _start(frame, observed, FP32)
    if observed.itemsize != FP32:
        frame.assign("observed_f", observed.values * FP32)
    for _ in range(CANDIDATES):
        _shrink(frame, args, observed)
        _fake_quantize(frame, args, observed)
        if observed.itemsize == FP32:
            frame.move("quantized", "q")
        else:
            frame.assign("q", observed.values * FP32)
            frame.delete("quantized")
        frame.assign("err", observed.count * FP32)
        _reduce_errors(frame, observed, FP32)
        _keep_best(frame, observed, FP32)
    _end(frame)


def search_mse(frame: Frame, args: QuantArgs, observed: Observed) -> None:
    """Leave min_vals and max_vals in `frame`: mse_quant.py _grid_search_mse, _calculate_error."""
    _start(frame, observed, observed.itemsize)
    nbytes = observed.values * observed.itemsize
    for _ in range(CANDIDATES):
        _shrink(frame, args, observed)
        _fake_quantize(frame, args, observed)
        frame.move("quantized", "q")
        with frame.during(nbytes, "q - observed"):
            frame.assign("distance", nbytes)
        with frame.during(nbytes, "distance ** norm"):
            frame.delete("distance")
            frame.assign("err", observed.small)
            _reduce_errors(frame, observed, observed.itemsize)
        frame.delete("q", "scales", "zero points")
        _keep_best(frame, observed, observed.itemsize)
    _end(frame)


def _importance(frame: Frame, columns: int) -> None:
    """imatrix.py _get_validated_importance and _prepare_importance: the mean of squares, and that over its own mean."""
    frame.assign("imp", columns * FP32)
    frame.temporary(columns, "isfinite(imp)")
    with frame.single(FP32, "imp.mean()"):
        frame.assign("imp", columns * FP32)


def _start(frame: Frame, observed: Observed, error_itemsize: int) -> None:
    """Extremes, times `expand`; the best error and the best range so far."""
    for name in ("min_val", "max_val"):
        take_extreme(frame, "extreme", observed)
        frame.assign(name, observed.small)
        frame.delete("extreme")
    frame.assign("best_error", observed.count * error_itemsize)
    frame.assign("best_min", observed.small)
    frame.assign("best_max", observed.small)


def _shrink(frame: Frame, args: QuantArgs, observed: Observed) -> None:
    """The candidate's range, its scales and its zero points."""
    frame.assign("shrink_min", observed.small)
    frame.assign("shrink_max", observed.small)
    qparams = calculate_qparams(frame, observed.count, observed.itemsize, args, rounded=_rounds(args))
    frame.bind("scales", qparams.scale)
    frame.bind("zero points", qparams.zero_point)


def _rounds(args: QuantArgs) -> bool:
    """With a global scale, the search leaves the scales unrounded; without one they have their scale_dtype."""
    return args.strategy != "tensor_group"


def _fake_quantize(frame: Frame, args: QuantArgs, observed: Observed) -> None:
    """quantized = (round(clamp(x / scale + zero_point)) - zero_point) * scale"""
    nbytes = observed.values * observed.itemsize
    with frame.during(nbytes, "x / scale"):
        frame.temporary(observed.small, "zero_point.to(x.dtype)")
        _round(frame, args, observed)
        with frame.during(observed.small, "zero_point.to(x.dtype)"):
            frame.assign("dequantized", nbytes)
        frame.assign("quantized", nbytes)
        frame.delete("rounded", "dequantized")


def _round(frame: Frame, args: QuantArgs, observed: Observed) -> None:
    """quant_args.py round_to_quantized_type_args; fp4_utils.py cast_to_fp4_triton rounds in place."""
    nbytes = observed.values * observed.itemsize
    frame.assign("clamped", nbytes)
    if args.type == "float" and args.num_bits == 4:
        frame.move("clamped", "rounded")
        return
    if args.type == "float":
        with frame.during(observed.values, "clamped.to(float8_e4m3fn)"):
            frame.assign("rounded", nbytes)
    else:
        frame.assign("rounded", nbytes)
    frame.delete("clamped")


def _reduce_errors(frame: Frame, observed: Observed, itemsize: int) -> None:
    """The buffers of q.sum(dim=(0, -1)), which adds up in fp32."""
    if frame.build is not None:
        shape = (observed.observations, observed.count, observed.group)
        dtype = "float32" if itemsize == FP32 else "bfloat16"
        operand = Operand(shape, (shape[1] * shape[2], shape[2], 1), dtype)
        frame.operator(temporaries(*reductions.buffer_sizes(operand, (0, 2), FP32, frame.build)), "err")


def _keep_best(frame: Frame, observed: Observed, error_itemsize: int) -> None:
    """improved = err < best_error; best[improved] = candidate[improved], for the error and both ends of the range."""
    frame.assign("improved", observed.count)
    with frame.single(1, "any(improved)"):
        pass
    for itemsize in (error_itemsize, observed.itemsize, observed.itemsize):
        if frame.build is None:
            with frame.during(observed.count * indexing.POSITION, "positions of the improved"):
                frame.assign("chosen", observed.count * itemsize)
            frame.temporary(observed.count * indexing.POSITION, "positions of the improved")
        else:
            frame.result("chosen", observed.count * itemsize, _chosen(frame, observed, itemsize, put=False))
            frame.operator(_chosen(frame, observed, itemsize, put=True), "best")
        frame.delete("chosen")


def _chosen(frame: Frame, observed: Observed, itemsize: int, *, put: bool) -> Requests:
    """What x[mask], or x[mask] = y, takes where all of the mask is true, as it is for the first candidate."""
    assert frame.build is not None
    dtype = "float32" if itemsize == FP32 else "bfloat16"
    tensor, mask = (Operand((observed.count,), (1,), kind) for kind in (dtype, "bool"))
    if put:
        call = OperatorCall(
            name="index_put_", arguments=(tensor, (mask,), tensor), selected=(observed.count,), results=(tensor,)
        )
        requests = indexing.index_put_(call, frame.build)
        assert requests is not None
        return requests
    call = OperatorCall(name="index", arguments=(tensor, (mask,)), selected=(observed.count,), results=(tensor,))
    return indexing.index(call, frame.build)


def _end(frame: Frame) -> None:
    """return best_min, best_max"""
    frame.move("best_min", "min_vals")
    frame.move("best_max", "max_vals")
