"""Indexing: a bool mask becomes positions (`nonzero`), which live until the operator ends."""

from collections.abc import Sequence
from itertools import zip_longest

from planner.cuda.build import CudaBuild
from planner.cuda.operands import Operand, OperatorCall
from planner.cuda.requests import RESULT, Ask, Requests, temporaries, then
from planner.cuda.sorting import nonzero_storage, scan_storage

POSITION = 8
COUNT = 4
MASKS = ("bool", "uint8")


def nonzero(call: OperatorCall, build: CudaBuild) -> Requests:
    """native/cuda/Nonzero.cu nonzero_cuda_out_impl: the count, the positions (its result), the selection.

    A mask with gaps is copied first.
    """
    return _nonzero(call.operand(0), build, RESULT)


def _nonzero(mask: Operand, build: CudaBuild, *result: Ask) -> Requests:
    counted, selected = nonzero_storage(mask.numel, build)
    inner = temporaries(COUNT, inside=(*then(temporaries(counted), result, temporaries(selected)),))
    return inner if mask.is_contiguous else temporaries(mask.nbytes, inside=inner)


def index(call: OperatorCall, build: CudaBuild) -> Requests:
    """native/TensorAdvancedIndexing.cpp index."""
    return _indexed(call.arguments[1], build, call.selected, (RESULT,))


def selection(mask: Operand, selected: int, build: CudaBuild) -> Requests:
    """tensor[mask], of which so many entries are true: `index` by one mask alone."""
    return _indexed((mask,), build, (selected,), (RESULT,))


def index_put_(call: OperatorCall, build: CudaBuild) -> Requests | None:
    """native/TensorAdvancedIndexing.cpp _index_put_impl_. Accumulating sorts the positions: no rule.

    One value from the CPU under one mask is a masked_fill (canDispatchToMaskedFill); otherwise it is uploaded first.
    """
    if call.argument(3, "accumulate", False):
        return None
    indices, value = call.arguments[1], call.operand(2)
    masks = [item for item in indices if item is not None and item.dtype in MASKS]
    if value.on_cpu and value.numel == 1:
        if len(masks) == 1 and all(item is None for item in indices if item is not masks[0]):
            return ()
        return temporaries(value.itemsize, inside=_indexed(indices, build, call.selected, ()))
    return _indexed(indices, build, call.selected, ())


def index_put(call: OperatorCall, build: CudaBuild) -> Requests | None:
    """A copy of the tensor, and index_put_ on it."""
    inner = index_put_(call, build)
    return None if inner is None else then((RESULT,), inner)


def _indexed(
    indices: Sequence[Operand | None], build: CudaBuild, selected: Sequence[int], result: Requests
) -> Requests:
    """expandTensors (masks to positions, int32 to int64), expand_outplace, then equal strides for all indices."""
    counts, tensors = iter(selected), list[Operand]()
    made: list[tuple[Operand | None, int]] = []
    for item in indices:
        if item is None:
            continue
        if item.dtype in MASKS:
            count = next(counts, 0)
            made.append((item, count * len(item.shape) * POSITION))
            tensors += [Operand((count,), (len(item.shape) and 1,), "int64")] * len(item.shape)
        elif item.dtype == "int32":
            made.append((None, item.numel * POSITION))
            tensors.append(Operand(item.shape, item.stride, "int64"))
        else:
            tensors.append(item)
    inner = temporaries(*_copies(tensors), inside=result)
    for mask, size in reversed(made):
        inner = _held(mask, size, build, inner)
    return inner


def _held(mask: Operand | None, size: int, build: CudaBuild, inner: Requests) -> Requests:
    """The positions of a mask, or a cast index, alive during `inner`."""
    if mask is None or not size:
        return then(_nonzero(mask, build), inner) if mask else temporaries(size, inside=inner)
    # the positions are taken inside of nonzero() and outlive it
    found = _nonzero(mask, build, Ask("take", size))
    held = next(number for number, request in enumerate(_takes(found)) if request.amount == size)
    return (*then(found, inner), Ask("give", held))


def _takes(requests: Requests) -> Requests:
    return tuple(request for request in requests if request.action == "take")


def _copies(tensors: Sequence[Operand]) -> list[int]:
    """AdvancedIndex: on CUDA, indices whose strides differ once expanded are made contiguous."""
    shape = _broadcast(tensors)
    expanded = [_expanded(tensor, shape) for tensor in tensors]
    if all(tensor.stride == expanded[0].stride for tensor in expanded):
        return []
    return [tensor.nbytes for tensor in expanded if not tensor.is_contiguous]


def _broadcast(tensors: Sequence[Operand]) -> tuple[int, ...]:
    sizes = zip_longest(*(reversed(tensor.shape) for tensor in tensors), fillvalue=1)
    return tuple(reversed([next((size for size in column if size != 1), 1) for column in sizes]))


def _expanded(tensor: Operand, shape: tuple[int, ...]) -> Operand:
    missing = len(shape) - len(tensor.shape)
    sizes, strides = (1,) * missing + tensor.shape, (0,) * missing + tensor.stride
    stride = tuple(own if size == whole else 0 for size, own, whole in zip(sizes, strides, shape, strict=True))
    return Operand(shape, stride, tensor.dtype)


def masked_scatter_(call: OperatorCall, _build: CudaBuild) -> Requests:
    """native/cuda/IndexKernel.cpp masked_scatter__cuda and launch_masked_scatter_kernel.

    int64 prefix sums over self, a whole mask where the given one is broadcast, and the scan's storage.
    """
    target, mask = call.operand(0), call.operand(1)
    whole = mask.shape == target.shape and mask.is_contiguous
    copy = () if whole else (target.numel,)
    return temporaries(target.numel * POSITION, *copy, scan_storage(target.numel, POSITION))


def masked_scatter(call: OperatorCall, build: CudaBuild) -> Requests:
    """native/TensorAdvancedIndexing.cpp masked_scatter: a copy of self, and masked_scatter_ on it."""
    return then((RESULT,), masked_scatter_(call, build))


def masked_select(call: OperatorCall, build: CudaBuild) -> Requests:
    """native/cuda/IndexKernel.cpp masked_select_out_cuda_impl: index() by the expanded mask."""
    tensor, mask = call.operand(0), call.operand(1)
    if mask.shape == tensor.shape and mask.is_contiguous:
        return _indexed((mask,), build, call.selected, (RESULT,))
    whole = Operand(tensor.shape, _row_major(tensor.shape), "bool")
    return temporaries(whole.nbytes, inside=_indexed((whole,), build, call.selected, (RESULT,)))


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides[: len(shape)]))
