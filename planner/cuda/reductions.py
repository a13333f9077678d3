"""Reductions: a buffer and semaphores where several thread blocks share an output.

ATen/native/cuda/Reduce.cuh gpu_reduce_kernel takes both from the allocator, after the results; setReduceConfig decides
how many blocks work on each output. A reduction over the slower dimension of a matrix can take a large buffer: the sum
over the rows of 4,096 x 4,096 takes 128 MiB.
"""

from math import prod
from typing import NamedTuple

from planner.cuda.build import CudaBuild
from planner.cuda.operands import ITEMSIZE, Operand, OperatorCall
from planner.cuda.requests import RESULT, Requests, temporaries, then

MAX_THREADS = 512
WARP = 32
MIN_VALUES, MAX_VALUES = 16, 256
"""Values per thread, Reduce.cuh setReduceConfig."""
INPUT_VECTOR = 4
SEMAPHORE = 4

_INTEGERS = {"bool", "uint8", "int8", "int16", "int32"}
_VERDICTS = {"any", "all"}
_OF_SIZE = {2: "bfloat16", 4: "float32"}
_ACCUMULATES_IN_FP32 = {"float16": 4, "bfloat16": 4}


class Dimension(NamedTuple):
    """One loop of TensorIterator, after neighbours were merged."""

    size: int
    stride: int
    """Elements of the input."""
    reduced: bool


def reduction(call: OperatorCall, build: CudaBuild) -> Requests:
    """sum, mean, amax, any and their like (ReduceOps.cpp and the kernels in native/cuda/Reduce*Kernel.cu).

    A sum of integers is a sum of int64: TensorIterator casts the whole input first.
    """
    operand, summed = call.operand(0), call.name in ("sum", "prod")
    cast = summed and operand.dtype in _INTEGERS and call.results[0].dtype == "int64"
    if cast:
        operand = Operand(operand.shape, operand.stride, "int64")
    buffers = temporaries(*buffer_sizes(operand, _reduced(call), _accumulator(call, operand), build))
    return then((RESULT,), temporaries(operand.nbytes, inside=buffers) if cast else buffers)


def buffer_sizes(operand: Operand, reduced: tuple[int, ...], accumulator: int, build: CudaBuild) -> tuple[int, ...]:
    """Bytes of the buffer and of the semaphores; nothing where each output is one block's. Reduce.cuh setReduceConfig.

    `accumulator`: bytes of one partial result.
    """
    loops = _loops(operand, reduced)
    inner = [loop for loop in loops if loop.reduced]
    if not inner or not operand.numel:
        return ()
    inputs = prod(loop.size for loop in inner)
    outputs = operand.numel // inputs
    reduces_fastest = len(inner) == len(loops) or loops[0].stride < loops[len(inner)].stride
    dim0, dim1 = (inputs, outputs) if reduces_fastest else (outputs, inputs)
    vector = 1
    if loops[0 if reduces_fastest else len(inner)].stride == 1:
        if not reduces_fastest:
            vector = _output_vector(loops, len(inner))
            dim0 //= vector
        elif dim0 >= 128 and len(inner) == 1:
            dim0 //= INPUT_VECTOR
    width, height = _block(dim0, dim1, MAX_THREADS // vector)
    step_input, step_output = (width, 1) if reduces_fastest else (1, width)
    splits_warps = -(-inputs // step_input) >= min(height * 16, MAX_VALUES)
    if splits_warps:
        step_input *= height
    else:
        step_output *= height
    grid, values = -(-(outputs // vector) // step_output), -(-inputs // step_input)
    target = build.multiprocessors * (build.threads_per_multiprocessor // (width * height))
    if not splits_warps or values < MAX_VALUES or grid > target:
        return ()
    # std::clamp(ctas_per_output1, ctas_per_output3, ctas_per_output2)
    blocks = min(max(-(-target // grid), -(-values // MAX_VALUES)), -(-values // MIN_VALUES))
    if blocks <= 1:
        return ()
    size = accumulator * outputs * blocks * (1 if reduces_fastest else width * vector)
    return size, SEMAPHORE * grid


def dense_buffers(
    shape: tuple[int, ...], reduced: tuple[int, ...], accumulator: int, build: CudaBuild
) -> tuple[int, ...]:
    """Bytes beside the results of a reduction of a dense tensor; the type of its elements does not matter."""
    strides = tuple(prod(shape[place + 1 :]) for place in range(len(shape)))
    return buffer_sizes(Operand(shape, strides, "float32"), reduced, accumulator, build)


def extreme_buffers(shape: tuple[int, int, int], itemsize: int, build: CudaBuild) -> tuple[int, ...]:
    """Bytes beside the results of amin or amax of a dense tensor over its first and last dimensions."""
    strides = (shape[1] * shape[2], shape[2], 1)
    return buffer_sizes(Operand(shape, strides, _OF_SIZE[itemsize]), (0, 2), itemsize, build)


def _reduced(call: OperatorCall) -> tuple[int, ...]:
    """The dimensions that are reduced, counted from 0."""
    rank = len(call.operand(0).shape)
    dims = call.argument(1, "dim")
    if dims is None or dims == () or isinstance(dims, float):
        return tuple(range(rank))
    return tuple(dim % rank for dim in ((dims,) if isinstance(dims, int) else dims))


def _accumulator(call: OperatorCall, operand: Operand) -> int:
    """Bytes of the kernel's `arg_t`: a verdict, a sum in fp32, an extremum in the input's type, or value and index."""
    itemsize = ITEMSIZE[operand.dtype]
    if call.name in _VERDICTS:
        return 1
    if call.name in ("argmax", "argmin") or (call.name in ("max", "min") and len(call.results) > 1):
        return 16  # pair of value and int64 index
    if call.name in ("var", "std", "var_mean", "std_mean"):
        return 16  # WelfordData<float, int32_t>
    if call.name == "aminmax":
        return 2 * itemsize
    if call.name in ("sum", "mean", "prod", "linalg_vector_norm"):
        return _ACCUMULATES_IN_FP32.get(operand.dtype, itemsize)
    return itemsize


def _loops(operand: Operand, reduced: tuple[int, ...]) -> list[Dimension]:
    """TensorIterator.cpp reorder_dimensions and coalesce_dimensions: reduced ones first, the fastest of each first."""
    dims = [
        Dimension(size, stride, index in reduced)
        for index, (size, stride) in enumerate(zip(operand.shape, operand.stride, strict=True))
        if size != 1
    ]
    dims.reverse()
    dims.sort(key=lambda loop: (not loop.reduced, loop.stride))
    merged: list[Dimension] = []
    for loop in dims:
        last = merged[-1] if merged else None
        if last and last.reduced == loop.reduced and last.size * last.stride == loop.stride:
            merged[-1] = last._replace(size=last.size * loop.size)
        else:
            merged.append(loop)
    return merged


def _output_vector(loops: list[Dimension], output: int) -> int:
    """Reduce.cuh get_output_vec_size, for storage that begins at a multiple of 4 elements."""
    vector = 4
    for number in (loops[output].size, *(loop.stride for index, loop in enumerate(loops) if index != output)):
        while number % vector:
            vector //= 2
    return vector


def _block(dim0: int, dim1: int, threads: int) -> tuple[int, int]:
    """Reduce.cuh ReduceConfig.set_block_dimension: threads of a block along both."""
    first, second = (_last_power(dim) if dim < threads else threads for dim in (dim0, dim1))
    width = min(first, WARP)
    height = min(second, threads // width)
    return min(first, threads // height), height


def _last_power(number: int) -> int:
    return 1 << (max(1, number).bit_length() - 1)
