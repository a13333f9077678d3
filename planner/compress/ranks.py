"""Data-parallel ranks of a torchrun job: which rank compresses which modules.

Every rank has a process, a card and a part of the samples; weights lie once in shared memory (compressed_tensors
offload/cache/dist_cpu.py). compressed_tensors distributed/assign.py greedy_bin_packing deals the modules out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from planner.compress.program import Program
from planner.errors import UnsupportedError
from planner.notes import Note

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of several."""

    number: int
    of: int


def dealt(items: Iterable[T], ranks: int, weight: Callable[[T], int]) -> tuple[list[T], list[list[T]]]:
    """All items in the order in which they are dealt out, the heaviest first, and each rank's share of them.

    An item goes to the rank with the least weight so far; of equal ranks to the first.
    """
    ordered = sorted(items, key=weight, reverse=True)
    shares: list[list[T]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for item in ordered:
        lightest = loads.index(min(loads))
        shares[lightest].append(item)
        loads[lightest] += weight(item)
    return ordered, shares


def check_ranks(program: Program, ranks: int) -> None:
    """Raise UnsupportedError where ranks would each convert fused experts."""
    if ranks > 1 and program.fused_expert_bytes:
        raise UnsupportedError(
            "--ranks: planner does not follow ranks that convert fused experts; load them with load_context, as linear "
            "ones (--linearized)"
        )


def rank_notes(program: Program, ranks: int) -> Iterator[Note]:
    """What ranks mean beyond the figures; nothing for one process."""
    if ranks == 1:
        return
    yield Note(
        kind="job",
        text="Weights lie in shared memory (/dev/shm, usually half of the RAM). NCCL's buffers on each card are not "
        "counted.",
    )
    for run in program.runs:
        yield from run.spec.in_ranks()
