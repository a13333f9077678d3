"""The mean weight of each column for AWQ's duo scaling: transform/awq/base.py `_compute_layer_means`."""

from collections.abc import Sequence
from math import prod

from planner.compress.context import Context, Frame
from planner.compress.holdings import Owner
from planner.cuda.build import CudaBuild
from planner.cuda.operands import Operand
from planner.cuda.reductions import buffer_sizes
from planner.cuda.requests import RESULT, temporaries, then
from planner.recipe.qparams import scale_count
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from planner.units import FP64

_DTYPE = {2: "bfloat16", 4: "float32"}


def layer_means(context: Context, caller: Frame, layers: Sequence[LinearModule]) -> None:
    """Leave `w_mean` with the caller: (columns,) in fp64, summed over the rows of all layers that have a scheme."""
    columns = layers[0].columns
    with context.frame("awq", caller.owner) as names:
        for layer in layers:
            names.owner = Owner(layer.name, "mean")
            names.assign("weight", layer.weight_bytes)
            args = layer.scheme.weights if layer.scheme else None
            if args is None:
                continue
            _normalize(names, layer, args)
            _sum(names, layer)
            if not names.holds("weight_total_sum"):
                names.assign("weight_total_sum", columns * FP64)
        caller.assign("w_mean", columns * FP64)
        names.delete("weight_total_sum", "weight", "weight_sum")


def _normalize(names: Frame, layer: LinearModule, args: QuantArgs) -> None:
    """weight.div_(weight.amax(dim=1, keepdim=True) + 1e-6), in chunks of what is quantized together.

    Blocks are copied side by side, and back.
    """
    count = scale_count(layer.rows, layer.columns, args)
    if args.strategy == "block":
        names.assign("weight", layer.weight_bytes)
    names.assign("largest", count * layer.itemsize)
    if names.build is not None:
        shape = (count, layer.rows * layer.columns // count)
        names.operator(temporaries(*_buffers(shape, (1,), layer.itemsize, layer.itemsize, names.build)), "largest")
    names.temporary(count * layer.itemsize, "largest + 1e-6")
    names.delete("largest")
    if args.strategy == "block":
        names.assign("weight", layer.weight_bytes)


def _sum(names: Frame, layer: LinearModule) -> None:
    """weight.sum(0, dtype=torch.float64): a CUDA build casts the whole weight first, and sums it in parts."""
    size = layer.columns * FP64
    if names.build is None:
        names.assign("weight_sum", size)
        return
    shape = (layer.rows, layer.columns)
    inner = temporaries(*buffer_sizes(Operand(shape, (layer.columns, 1), "float64"), (0,), FP64, names.build))
    names.result("weight_sum", size, then((RESULT,), temporaries(prod(shape) * FP64, inside=inner)))


def _buffers(
    shape: tuple[int, int], reduced: tuple[int, ...], itemsize: int, accumulator: int, build: CudaBuild
) -> tuple[int, ...]:
    return buffer_sizes(Operand(shape, (shape[1], 1), _DTYPE[itemsize]), reduced, accumulator, build)
