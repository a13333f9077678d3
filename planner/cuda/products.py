"""Matrix products: cuBLAS takes its workspace at the first one, and copies of matrices that it cannot read."""

from planner.cuda.build import CudaBuild
from planner.cuda.operands import Operand, OperatorCall
from planner.cuda.requests import PRODUCT, RESULT, Requests, temporaries, then


def matrix_product(call: OperatorCall, _build: CudaBuild) -> Requests:
    """mm, bmm, addmm, baddbmm. native/cuda/Blas.cpp prepare_matrix_for_cublas, prepare_batch_matrix_for_cublas.

    The last two tensors are multiplied. cuBLASLt, which adds a bias in the same call, uses cuBLAS's workspace.
    """
    matrices = [item for item in call.arguments if isinstance(item, Operand)][-2:]
    if not all(result.numel for result in call.results):
        return () if "out" in call.keywords else (RESULT,)
    copies = [matrix.nbytes for matrix in matrices if not _readable(matrix)]
    inner = temporaries(*copies, inside=(PRODUCT,))
    return inner if "out" in call.keywords else then((RESULT,), inner)


def vector_product(_call: OperatorCall, _build: CudaBuild) -> Requests:
    """mv, dot, addmv: native/cuda/Blas.cpp addmv_out_cuda, dot_cuda."""
    return RESULT, PRODUCT


def _readable(matrix: Operand) -> bool:
    """One of the two dimensions is dense and the other steps over at least as many elements."""
    (rows, columns), (down, across) = matrix.shape[-2:], matrix.stride[-2:]
    return (down == 1 and across >= max(1, rows)) or (across == 1 and down >= max(1, columns))


def batched_product(call: OperatorCall, build: CudaBuild) -> Requests:
    """bmm. native/cuda/Blas.cpp bmm_out_cuda_impl: one column times one row is elementwise (torch 2.14)."""
    if call.operand(0).shape[-1] == 1:
        return () if "out" in call.keywords else (RESULT,)
    return matrix_product(call, build)
