"""Sorting and prefix sums: temporary storage of CUB, and the copies around it.

CUB cuts the input into tiles whose size is a tuning of the architecture; the sizes here were found with recordings of
1,000 to 100,000,000 elements (tests/cuda/recorded/operators.json).
"""

from planner.cuda.build import CudaBuild
from planner.cuda.operands import ITEMSIZE, Operand, OperatorCall
from planner.cuda.requests import RESULT, Ask, Requests, temporaries, then
from planner.units import INT64

SMALL_SORT = 4096
"""native/cuda/Sort.cpp should_use_small_sort: rows up to this are sorted in place by one block each."""
FULL_SORT_ROWS = 128
"""native/cuda/SortStable.cu: from this many rows on a segmented sort, below it two sorts of everything."""
NONZERO_SINGLE_TILE = 4096
SCAN_TILE = {4: 1920, 8: 896}
"""Elements of a tile by bytes of an accumulated element."""


def cub_storage(*sizes: int) -> int:
    """CUB's AliasTemporaries: each allocation rounded up to 256 bytes, and 255 to align the first."""
    return sum(-(-size // 256) * 256 for size in sizes) + 255


def scan_storage(numel: int, itemsize: int) -> int:
    """cub::DeviceScan: one state a tile and a warp of them in front; a state is a value and a flag."""
    tiles = -(-numel // SCAN_TILE[itemsize])
    return cub_storage(1, (tiles + 32) * 2 * itemsize)


def nonzero_storage(numel: int, build: CudaBuild) -> tuple[int, int]:
    """cub::DeviceReduce::Sum over the mask, and cub::DeviceSelect::Flagged."""
    blocks = build.multiprocessors * (build.threads_per_multiprocessor // 256) * 5
    counted = 1 if numel <= NONZERO_SINGLE_TILE else cub_storage(blocks * 4)
    tiles = -(-numel // build.select_tile)
    return counted, cub_storage(1, (tiles + 32) * 8)


def radix_storage(numel: int, key: int, build: CudaBuild, *, passes: int | None = None) -> int | None:
    """cub::DeviceRadixSort::SortPairs with 8-byte values: histograms, states of the tiles, and second buffers.

    `passes` of 8 bits each; a single pass needs no second buffers. None: no recording of such keys.
    """
    tile = build.radix_tile(key if passes is None else 0)
    if tile is None:
        return None
    rounds = key if passes is None else passes
    blocks = -(-numel // tile)
    buffers = (numel * key, numel * INT64) if rounds > 1 else ()
    return cub_storage(rounds * 256 * 8, blocks * 256 * 4, 256, *buffers)


def sort(call: OperatorCall, build: CudaBuild) -> Requests | None:
    """native/cuda/Sort.cpp sort_stable_kernel; results are the values and the indices, taken first.

    argsort is a sort whose values are dropped.
    """
    operand = call.operand(0)
    dim = next((value for value in call.arguments[1:] if type(value) is int), call.keywords.get("dim", -1))
    size = operand.shape[dim] if operand.shape else 1
    results = (RESULT, Ask("result", 1))
    if size <= SMALL_SORT:
        return then(results, temporaries(size * INT64))
    last = dim in (-1, len(operand.shape) - 1)
    if not last:
        return None
    inner = _large_sort(operand, operand.numel // size, build)
    if inner is None:
        return None
    return then(results, inner if operand.is_contiguous else temporaries(operand.nbytes, inside=inner))


def _large_sort(operand: Operand, rows: int, build: CudaBuild) -> Requests | None:
    """SortStable.cu launch_stable_sort_kernel: one row, few rows (segmented_sort_pairs_by_full_sort), or many."""
    numel, key = operand.numel, operand.itemsize
    if rows >= FULL_SORT_ROWS:
        return temporaries(numel * INT64, cub_storage(numel * key, numel * INT64))
    storage = radix_storage(numel, key, build)
    if storage is None:
        return None
    if rows == 1:
        return temporaries(numel * INT64, storage)
    by_row = radix_storage(numel, 4, build, passes=1)
    if by_row is None:
        return None
    # indices of the elements, their (row, position) pairs, and the keys of the first sort
    steps = then(temporaries(numel * key, storage), temporaries(by_row))
    return temporaries(numel * INT64, numel * INT64, inside=steps)


def topk(call: OperatorCall, _build: CudaBuild) -> Requests | None:
    """native/cuda/TensorTopK.cu: one block a slice takes nothing; long slices of which there are few take several."""
    operand = call.operand(0)
    size = operand.shape[call.argument(2, "dim", -1)] if operand.shape else 1
    slices = operand.numel // max(1, size)
    return None if _several_blocks(slices, size) or not operand.is_contiguous else (RESULT,)


def _several_blocks(slices: int, size: int) -> bool:
    """TensorTopK.cu should_use_multiblock."""
    limits = ((20, 20_000), (40, 10_000), (80, 8_000), (200, 5_000), (800, 3_000), (4_000, 800))
    return size >= next((limit for most, limit in limits if slices <= most), 400)


def cumsum(call: OperatorCall, _build: CudaBuild) -> Requests | None:
    """native/cuda/ScanKernels.cpp and ScanUtils.cuh scan_dim: over one dimension of several, no storage.

    An input of another type is copied to the result's first.
    """
    operand, result = call.operand(0), call.results[0]
    dim = call.argument(1, "dim", -1)
    whole = operand.numel == (operand.shape[dim] if operand.shape else 1)
    itemsize = ITEMSIZE[result.dtype]
    if whole and itemsize not in SCAN_TILE:
        return None
    inner = temporaries(scan_storage(operand.numel, itemsize)) if whole else ()
    copied = operand.dtype != result.dtype
    return then((RESULT,), temporaries(result.nbytes, inside=inner) if copied else inner)
