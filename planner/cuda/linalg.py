"""torch.linalg on CUDA: what the Cholesky functions take beside their result, as the build's cuSOLVER path has it.

`into` is `out=` with a row-major tensor, such as the library's Hessians: cuSOLVER works column-major, so the function
computes in a tensor of its own and copies. A function without `out=` makes its result column-major at once. A batch
of one is one matrix. cuSOLVER's own workspace comes on top (`workspace`, bytes of cusolverDnXpotrf_bufferSize): only a
GPU can say how large it is, and 0 bytes are not asked for.

torch 2.14.1, any architecture; tests/cuda/recorded/operators.json has the recordings.
"""

from planner.cuda.requests import PRODUCT, RESULT, Ask, Requests, temporaries, then

POINTER = 8
INFO = 4

TRSM_LOOP_MAX_BATCH = 8
TRSM_LOOP_MIN_COLUMNS = 64
"""linalg/BatchLinearAlgebra.cpp triangular_solve_kernel: up to so many matrices of at least so many columns are solved
one after another, others by one batched call over arrays of pointers."""


def cholesky_ex(columns: int, *, batch: int = 1, itemsize: int = 4, into: bool = False, workspace: int = 0) -> Requests:
    """torch.linalg.cholesky_ex(check_errors=False); result 1 is `info`.

    native/BatchLinearAlgebra.cpp linalg_cholesky_ex.out; linalg/BatchLinearAlgebraLib.cpp
    cholesky_helper_cusolver: a batch goes by an array of pointers, one matrix by cusolverDnXpotrf with a workspace.
    """
    inner = _potrf(batch, workspace)
    if not into:
        return then((RESULT, Ask("result", 1)), inner)
    return temporaries(_bytes(columns, batch, itemsize), inside=inner)


def cholesky(columns: int, *, batch: int = 1, itemsize: int = 4, into: bool = False, workspace: int = 0) -> Requests:
    """torch.linalg.cholesky: cholesky_ex with an `info` of its own, which is then read.

    native/BatchLinearAlgebra.cpp linalg_cholesky.out and _linalg_check_errors (`infos.any()`, or `is_nonzero` by way
    of a comparison for one matrix).
    """
    inner = _potrf(batch, workspace)
    check = check_errors(batch)
    if not into:
        return then((RESULT,), temporaries(INFO * batch, inside=then(inner, check)))
    # the copy is taken before `info` and given back before `info` is read
    taken = then((Ask("take", _bytes(columns, batch, itemsize)), Ask("take", INFO * batch)))
    number = 2
    potrf = _renumbered(inner, number)
    number += _taken(inner)
    return (*taken, *potrf, Ask("give", 0), *_renumbered(check, number), Ask("give", 1))


def check_errors(batch: int) -> Requests:
    """native/BatchLinearAlgebra.cpp _linalg_check_errors: verdicts over `info`."""
    return temporaries(1) if batch > 1 else temporaries(1, 1)


def cholesky_inverse(columns: int, *, batch: int = 1, itemsize: int = 4, into: bool = False) -> Requests:
    """torch.cholesky_inverse: an identity is solved against the factor.

    native/BatchLinearAlgebra.cpp cholesky_inverse_out_info; linalg/BatchLinearAlgebraLib.cpp
    _cholesky_inverse_cusolver_potrs_based: one matrix by cusolverDnXpotrs with a column-major copy of the input,
    `info` and the right-hand side; batches by two triangular solves (linalg/BatchLinearAlgebra.cpp).
    """
    size = _bytes(columns, batch, itemsize)
    if batch == 1:
        inner = temporaries(size, INFO, size)
    elif batch <= TRSM_LOOP_MAX_BATCH and columns >= TRSM_LOOP_MIN_COLUMNS:
        inner = temporaries(size, inside=(PRODUCT,))
    else:
        pointers = batch * POINTER
        solve = temporaries(pointers, pointers, inside=(PRODUCT,))
        inner = temporaries(size, inside=then(solve, solve))
    return temporaries(size, inside=inner) if into else then((RESULT,), inner)


def _potrf(batch: int, workspace: int) -> Requests:
    if batch > 1:
        return temporaries(batch * POINTER)
    return temporaries(workspace) if workspace else ()


def _bytes(columns: int, batch: int, itemsize: int) -> int:
    return batch * columns * columns * itemsize


def _taken(requests: Requests) -> int:
    return sum(request.action == "take" for request in requests)


def _renumbered(requests: Requests, first: int) -> Requests:
    """The requests with their temporaries numbered from `first` on."""
    return tuple(r._replace(amount=r.amount + first) if r.action == "give" else r for r in requests)
