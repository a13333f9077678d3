"""What one CUDA operator asks of the allocator, in order: its own temporaries, and when its results are taken.

A rule gives a tuple of these. Temporaries lie before or after the results as the kernel's host code has them, because
the order decides which free block each one gets.
"""

from typing import Literal, NamedTuple


class Ask(NamedTuple):
    """`take` so many bytes; `give` back the temporary that was taken as number so-and-so, from 0; the `result` number
    so-and-so; or a `product` by cuBLAS, whose workspace the first one on a stream takes for good.
    """

    action: Literal["take", "give", "result", "product"]
    amount: int = 0
    """Bytes of a `take`; number of the temporary of a `give`; number of the operator's `result`."""


Requests = tuple[Ask, ...]

RESULT = Ask("result")
"""The operator's results are taken here: the first one, and after it those that no other request names."""

PRODUCT = Ask("product")
"""cuBLAS or cuBLASLt multiplies here; the two share a workspace (`CudaBuild.cublas_workspace`)."""

NOTHING: Requests = (RESULT,)
"""An operator that takes no more than its results."""


def temporaries(*sizes: int, inside: Requests = ()) -> Requests:
    """Tensors of these sizes, all alive together during the requests `inside`, and freed in reverse order.

    `inside` numbers its own temporaries from 0.
    """
    taken = tuple(Ask("take", size) for size in sizes)
    moved = (r._replace(amount=r.amount + len(sizes)) if r.action == "give" else r for r in inside)
    return (*taken, *moved, *(Ask("give", number) for number in reversed(range(len(sizes)))))


def then(*parts: Requests) -> Requests:
    """The parts one after another; each part numbers its temporaries from 0."""
    requests: list[Ask] = []
    taken = 0
    for part in parts:
        requests += (r._replace(amount=r.amount + taken) if r.action == "give" else r for r in part)
        taken += sum(request.action == "take" for request in part)
    return tuple(requests)
