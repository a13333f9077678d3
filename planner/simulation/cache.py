"""The activation cache (llmcompressor/pipelines/cache.py IntermediatesCache) on the CPU or the GPU."""

from collections.abc import Iterable

from planner.models.traces import Crossing, ModelTrace
from planner.simulation.context import Context
from planner.simulation.ledger import Device, Handle


class ActivationCache:
    """Every tensor that crosses a subgraph border, for every batch, summed per tensor."""

    def __init__(self, context: Context, trace: ModelTrace) -> None:
        self._context, self._trace = context, trace
        self.device: Device = context.job.offload_device
        self._held: dict[int, Handle] = {}
        # what a batch dictionary still refers to after the cache let it go (same device only)
        self._released: list[Handle] = []

    def fill(self) -> None:
        """from_dataloader: all batches. On the CPU the cache keeps the collated batches themselves."""
        kind = "calibration_data" if self.device == "cpu" else "activation_cache"
        for crossing in self._inputs():
            handle = self._context.ledger.alloc(self.device, 0, kind, f"calibration data: {crossing.name}")
            self._held[crossing.id] = handle
            for count, nbytes in self._sizes(crossing):
                self._context.ledger.grow(handle, count * nbytes, count)

    def fetch(self, numbers: Iterable[int]) -> list[Handle]:
        """One batch on the GPU: copies, or the cached tensors themselves when they are there."""
        if self.device == self._context.device:
            taken, self._released = self._released, []
            return taken
        crossings = self._trace.crossings
        return [self._context.take(crossings[n].bytes, "batch", f"batch: {crossings[n].name}") for n in numbers]

    def update(self, numbers: Iterable[int], *, batches: int = 1, last: bool = False) -> None:
        """Store these outputs of `batches` batches (of the last, maybe smaller one)."""
        for number in numbers:
            crossing = self._trace.crossings[number]
            if number not in self._held:
                owner = f"activation cache: {crossing.name}"
                self._held[number] = self._context.ledger.alloc(self.device, 0, "activation_cache", owner)
            nbytes = self._of_last(crossing.bytes) if last else crossing.bytes
            self._context.ledger.grow(self._held[number], batches * nbytes, batches)

    def delete(self, numbers: Iterable[int], *, batches: int = 1, last: bool = False) -> None:
        """Drop these names of `batches` batches; they were read for the last time."""
        for number in numbers:
            crossing = self._trace.crossings[number]
            nbytes = self._of_last(crossing.bytes) if last else crossing.bytes
            self._shrink(crossing, batches, nbytes)
            if not self._context.ledger.size(self._held[number]):
                self._context.ledger.free(self._held.pop(number))

    def rename(self, old: Iterable[int], new: Iterable[int]) -> None:
        """A subgraph that repeats another: what it consumed is gone, what it made is there."""
        for number in old:
            self._context.ledger.free(self._held.pop(number))
        for number in new:
            self.update([number], batches=self._context.job.batches - 1)
            self.update([number], last=True)

    def clear(self) -> None:
        """The pipeline returns."""
        self._context.ledger.free_all(self._held.values())
        self._held.clear()

    def _shrink(self, crossing: Crossing, batches: int, nbytes: int) -> None:
        ledger = self._context.ledger
        ledger.grow(self._held[crossing.id], -batches * nbytes, batches)
        if self.device == self._context.device and batches == 1:
            # the batch dictionary still holds it until the next fetch
            self._released.append(self._context.take(nbytes, "batch", f"batch: {crossing.name}"))

    def _inputs(self) -> list[Crossing]:
        return [c for c in self._trace.crossings.values() if c.producer < 0]

    def _sizes(self, crossing: Crossing) -> tuple[tuple[int, int], ...]:
        return (self._context.job.batches - 1, crossing.bytes), (1, self._of_last(crossing.bytes))

    def _of_last(self, nbytes: int) -> int:
        job = self._context.job
        return nbytes * job.last_batch_size // job.batch_size
