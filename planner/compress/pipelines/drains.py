"""Holdings that drain: each subgraph takes its own part of what was there for all of them from the start.

iMatrix's sums lie on the GPU for the whole model, and go layer by layer; a model that is pruned loses experts so. Equal
subgraphs take equal parts, and what is left for later ones only lies there meanwhile: in a copied step every figure
differs by it alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from planner.compress.context import Context
from planner.compress.holdings import Peak, Shift
from planner.timeline import Handle

BLOCK = 512
"""Bytes that the allocator rounds a tensor up to."""

Tensors = Mapping[int, int]
"""Number of tensors by size; a holding of one tensor that shrinks has its bytes as single ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drains:
    """What a subgraph found in the draining holdings, and what it took."""

    found: Mapping[Handle, Tensors]
    taken: Mapping[Handle, Tensors]

    @classmethod
    def now(cls, context: Context) -> Self:
        """Before a subgraph."""
        return cls(found={handle: _tensors(context, handle) for handle in context.losses.draining}, taken={})

    def until_now(self, context: Context) -> Self:
        """After it."""
        taken = {handle: _less(found, _tensors(context, handle)) for handle, found in self.found.items()}
        return replace(self, taken=taken)

    def drain(self, context: Context) -> None:
        """Take the same parts once more."""
        for handle, sizes in self.taken.items():
            for size, count in sizes.items():
                context.ledger.grow(handle, -size * count, abs(count))

    def shifts(self, context: Context) -> list[Shift]:
        """How the holdings differ now from what this subgraph found."""
        shifts = []
        for handle, found in self.found.items():
            less, about = _less(found, _tensors(context, handle)), context.ledger.about(handle)
            nbytes = -sum(size * count for size, count in less.items())
            allocated = -sum(-(-size // BLOCK) * BLOCK * count for size, count in less.items())
            shifts.append(Shift(about.device, about.kind, about.owner, nbytes, allocated if 1 not in less else nbytes))
        return [shift for shift in shifts if shift.bytes]


def shifted(peak: Peak, shifts: Sequence[Shift]) -> Peak:
    """The peak beside holdings that differ by these."""
    for shift in shifts:
        kinds = {**peak.by_kind, shift.kind: peak.by_kind.get(shift.kind, 0) + shift.bytes}
        largest = tuple(
            replace(h, bytes=h.bytes + shift.bytes) if (h.owner, h.kind) == (shift.owner, shift.kind) else h
            for h in peak.largest
        )
        peak = replace(
            peak,
            bytes=peak.bytes + shift.bytes,
            allocated=peak.allocated + shift.allocated,
            end=peak.end + shift.bytes,
            by_kind=kinds,
            largest=largest,
        )
    return peak


def _tensors(context: Context, handle: Handle) -> Tensors:
    growing = context.ledger.growth()
    return growing[handle] if handle in growing else {1: context.ledger.size(handle)}


def _less(before: Tensors, after: Tensors) -> dict[int, int]:
    """What is there no more."""
    sizes = {size: before.get(size, 0) - after.get(size, 0) for size in {**before, **after}}
    return {size: count for size, count in sizes.items() if count}
