"""What one CUDA operator asks of the allocator, in order: its own temporaries, and when its results are taken.

A rule gives a tuple of these. Temporaries lie before or after the results as the kernel's host code has them, because
the order decides which free block each one gets.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple


class Request(NamedTuple):
    """`take` so many bytes; `give` back the temporary that was taken as number so-and-so, from 0; or the `result`."""

    action: Literal["take", "give", "result"]
    amount: int = 0
    """Bytes of a `take`; number of the temporary of a `give`."""


Requests = tuple[Request, ...]

RESULT = Request("result")
"""The operator's results are taken here."""

NOTHING: Requests = (RESULT,)
"""An operator that takes no more than its results."""


def temporaries(*sizes: int, before: bool = True) -> Requests:
    """Tensors of these sizes, all alive together and freed in reverse order; the results come before or after."""
    taken = [Request("take", size) for size in sizes]
    given = [Request("give", number) for number in reversed(range(len(sizes)))]
    return (RESULT, *taken, *given) if not before else (*taken, *given, RESULT)


def around(*sizes: int) -> Requests:
    """Temporaries that are taken before the results and freed after them, in reverse order."""
    given = (Request("give", number) for number in reversed(range(len(sizes))))
    return (*(Request("take", size) for size in sizes), RESULT, *given)


def unfreed(requests: Requests) -> Iterator[int]:
    """Numbers of the temporaries that a rule forgets to give back; a test holds that there are none."""
    taken = range(sum(request.action == "take" for request in requests))
    given = {request.amount for request in requests if request.action == "give"}
    return (number for number in taken if number not in given)
