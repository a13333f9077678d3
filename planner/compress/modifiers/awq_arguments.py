"""The arguments of parents that AWQ keeps: transform/awq/base.py `_parent_args_cache`, pipelines/cache.py.

Without an offload device the very tensors are kept. Else there is a copy of each on the CPU, and one copy of a tensor
that several parents are passed, as the rotary embedding of all layers is in the basic pipeline: `offload_values` knows
it by the tensor. Before a parent runs again, pinned copies take the place of its own, and the others keep theirs.
"""

from dataclasses import dataclass, field

from planner.compress.context import Context
from planner.compress.holdings import DeviceName, Owner
from planner.models.traces import Call
from planner.timeline import Handle


@dataclass(slots=True)
class KeptArguments:
    """A parent's arguments of all batches."""

    handle: Handle
    """Those that it has for itself."""
    first: tuple[int, ...]
    """Bytes of each tensor in a whole batch, and"""
    last: tuple[int, ...] = ()
    """in the batch that was seen last."""
    outputs: dict[int, int] = field(default_factory=dict)
    """Bytes of the first output by the number of the bytes that came in."""
    itemsize: int = 2
    is_new: bool = True
    """The first output is made in the parent, and is none of its arguments."""

    def returns(self, call: Call) -> None:
        """What the call returned."""
        first = call.outputs[0]
        self.outputs[sum(self.last)] = first.bytes
        self.itemsize, self.is_new = call.output_itemsize, first.storage >= 0


@dataclass(slots=True)
class _OneCopy:
    """One copy for several parents, of all batches."""

    handle: Handle
    parents: list[str]
    """Those that have it still; the first one was passed it first in each batch."""


class ParentsArguments:
    """What is kept of all parents. `offload`: on the CPU."""

    def __init__(self, context: Context, *, offload: bool) -> None:
        self._context, self._offload = context, offload
        self._kept: dict[str, KeptArguments] = {}
        self._shared: dict[int, _OneCopy] = {}
        """By the crossing that the tensor is; from -1 down those that no later parent can be passed."""

    @property
    def copies(self) -> bool:
        """cache.py `_offload_value` copies nothing to where it is: a model on the CPU has it there already."""
        return self._offload and self._context.device == "gpu"

    def keep(self, parent: str, call: Call) -> None:
        """cache_parent_kwargs_hook: IntermediatesCache.append, which copies nothing without an offload device."""
        sizes, context = tuple(value.bytes for value in call.arguments), self._context
        kept = self._kept.get(parent)
        if kept is None:
            handle = self._open(parent, "arguments of all batches")
            kept = self._kept[parent] = KeptArguments(handle, sizes)
        kept.last = sizes
        for value in call.arguments:
            if not self.copies:
                context.forward.retain(value, kept.handle)
                continue
            place = self._place(parent, kept, context.forward.crossing(value))
            if place is not None:
                context.ledger.grow(place, value.bytes)
                context.traffic.off_gpu(value.bytes)

    def returned(self, parent: str, call: Call) -> None:
        """The parent's forward is over."""
        self._kept[parent].returns(call)

    def of(self, parent: str) -> KeptArguments | None:
        """What is kept of this parent."""
        return self._kept.get(parent)

    def pop(self, parent: str) -> KeptArguments | None:
        """The same, for the caller to free; None for a parent that was never called as a module."""
        return self._kept.pop(parent, None)

    def pin(self, parent: str, kept: KeptArguments) -> None:
        """pipelines/cache.py pin_memory, in place: the parent has copies of its own then, also of what it shared."""
        ledger = self._context.ledger
        for number, shared in [(n, s) for n, s in self._shared.items() if parent in s.parents]:
            shared.parents.remove(parent)
            sizes = ledger.growth()[shared.handle]
            if not shared.parents:
                ledger.free(self._shared.pop(number).handle)
            for nbytes, count in sizes.items():
                ledger.grow(kept.handle, nbytes * count, count)

    def end_epoch(self) -> None:
        """pipelines/sequential/pipeline.py fetches every tensor anew for the next subgraph: it is copied again there,
        also where a parent without a mapping in this subgraph has its copy still.
        """
        for number in [number for number in self._shared if number >= 0]:
            self._shared[min(0, min(self._shared, default=0)) - 1] = self._shared.pop(number)

    def clear(self) -> None:
        """base.py `on_finalize`."""
        ledger = self._context.ledger
        ledger.free_all(kept.handle for kept in self._kept.values())
        ledger.free_all(shared.handle for shared in self._shared.values())
        self._kept.clear()
        self._shared.clear()

    def is_shared(self, parent: str) -> bool:
        """Another parent has some of its tensors too."""
        return any(parent in shared.parents and len(shared.parents) > 1 for shared in self._shared.values())

    def _place(self, parent: str, kept: KeptArguments, crossing: int | None) -> Handle | None:
        """Where a copy is counted; None if it is there already."""
        if crossing is None:
            return kept.handle
        shared = self._shared.get(crossing)
        if shared is None:
            handle = self._open(parent, "arguments of all batches, for others too")
            shared = self._shared[crossing] = _OneCopy(handle, [])
        if parent not in shared.parents:
            shared.parents.append(parent)
        return shared.handle if shared.parents[0] == parent else None

    def _open(self, parent: str, role: str) -> Handle:
        device: DeviceName = "cpu" if self.copies else self._context.device
        kind = "activation_cache" if self.copies else "forward"
        return self._context.ledger.open(device, kind, Owner(parent, role))
