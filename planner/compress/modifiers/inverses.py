"""torch.linalg.inv of a matrix in fp64, allocation by allocation: native/BatchLinearAlgebra.cpp linalg_inv_ex_out.

It solves for the identity, which becomes the result, by columns, beside an LU decomposition and its pivots. What a CUDA
build takes beside that was read off PyTorch's own (tests/cudameter), whose cuSOLVER asks for no workspace there.
"""

from planner.compress.context import Context
from planner.compress.holdings import DeviceName, Owner
from planner.timeline import Handle
from planner.units import BOOL, FP64, INT32, INT64


def solved(context: Context, place: DeviceName, size: int, owner: Owner) -> Handle:
    """The result, which is the caller's."""
    ledger, wide = context.ledger, size * size * FP64
    on_card = context.cuda is not None and place == "gpu"

    def taken(*tensors: tuple[str, int]) -> list[Handle]:
        return [ledger.alloc(place, nbytes, "transform", owner.part(what)) for what, nbytes in tensors]

    (result,) = taken(("by columns", wide))
    info = taken(("info", INT32)) if on_card else []
    working = taken(("LU", wide), ("pivots", size * INT32))
    if on_card:
        # native/cuda/linalg/BatchLinearAlgebra.cpp lu_solve_kernel makes a permutation of the pivots
        working += taken(*((what, size * INT64) for what in ("pivots from 0", "order", "permutation")))
        working += taken(("permuted", wide))
        context.multiply()
    ledger.free_all(reversed(working))
    if on_card:
        ledger.free_all(reversed(taken(("info == 0", BOOL), ("all of it", BOOL))))
    ledger.free_all(info)
    return result
