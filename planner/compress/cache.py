"""The activation cache (llmcompressor/pipelines/cache.py IntermediatesCache) on the CPU or the GPU."""

from collections.abc import Iterable

from planner.compress.context import Context
from planner.compress.ledger import DeviceName, Handle, Owner
from planner.models.traces import Crossing, ModelTrace


class ActivationCache:
    """Every tensor that crosses a subgraph border, one for each batch, those of one name in one growing holding."""

    def __init__(self, context: Context, trace: ModelTrace) -> None:
        self._context, self._trace = context, trace
        self.device: DeviceName = context.job.offload_device
        self._held: dict[int, Handle] = {}

    def fill(self) -> None:
        """from_dataloader: all batches. On the CPU the cache keeps the collated batches themselves."""
        kind = "calibration_data" if self.device == "cpu" else "activation_cache"
        whole = self._context.job.batches - 1
        for crossing in (c for c in self._trace.crossings.values() if c.producer < 0):
            handle = self._context.ledger.open(self.device, kind, f"calibration data: {crossing.name}")
            self._held[crossing.id] = handle
            self._context.ledger.grow(handle, whole * crossing.bytes, whole)
            self._context.ledger.grow(handle, self.size(crossing, last=True))

    def fetch(self, numbers: Iterable[int], *, last: bool = False) -> list[Handle]:
        """One batch on the GPU: copies, or nothing new when the cached tensors are there already."""
        if self.device == self._context.device:
            return []
        crossings = [self._trace.crossings[n] for n in numbers]
        return [self._context.take(self.size(c, last), "batch", f"batch: {c.name}") for c in crossings]

    def size(self, crossing: Crossing, last: bool) -> int:
        """Bytes of one batch's tensor; the last batch may hold fewer samples."""
        job = self._context.job
        if not last or not crossing.batched:
            return crossing.bytes
        return crossing.bytes * job.last_batch_size // job.batch_size

    def update(self, numbers: Iterable[int], *, batches: int = 1, last: bool = False) -> None:
        """Store these outputs of `batches` batches (of the last, maybe smaller one)."""
        ledger = self._context.ledger
        for number in numbers:
            crossing = self._trace.crossings[number]
            if number not in self._held:
                self._held[number] = ledger.open(self.device, "activation_cache", _owner(crossing))
            ledger.grow(self._held[number], batches * self.size(crossing, last), batches)

    def delete(self, numbers: Iterable[int], *, last: bool = False) -> list[Handle]:
        """Drop these names of one batch; they were read for the last time.

        Returns what the batch dictionary still holds of them, where cache and batch are one tensor.
        """
        ledger, still_held = self._context.ledger, []
        for number in numbers:
            crossing = self._trace.crossings[number]
            nbytes = self.size(crossing, last)
            ledger.grow(self._held[number], -nbytes)
            if not ledger.size(self._held[number]):
                ledger.free(self._held.pop(number))
            if self.device == self._context.device:
                still_held.append(self._context.take(nbytes, "batch", f"batch: {crossing.name}"))
        return still_held

    def rename(self, old: Iterable[int], new: Iterable[int]) -> None:
        """A subgraph that repeats another: what it consumed is gone, what it made is there."""
        for number in old:
            self._context.ledger.free(self._held.pop(number))
        for number in new:
            self.update([number], batches=self._context.job.batches - 1)
            self.update([number], last=True)

    @property
    def held(self) -> frozenset[Handle]:
        """The holdings of everything in the cache."""
        return frozenset(self._held.values())

    def clear(self) -> None:
        """The pipeline returns."""
        self._context.ledger.free_all(self._held.values())
        self._held.clear()


def _owner(crossing: Crossing) -> Owner:
    return Owner(f"activation cache: {crossing.name}")
