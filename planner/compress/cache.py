"""The activation cache (llmcompressor/pipelines/cache.py IntermediatesCache) on the CPU, the GPU or a second one.

Between two cards a tensor is copied as it lies, without a temporary on either: ATen/native/cuda/Copy.cu
copy_requires_temporaries needs one for other strides or another type alone.
"""

from collections.abc import Iterable, Mapping, Sequence

from planner.compress.context import Context
from planner.compress.holdings import DeviceName, Owner
from planner.fields import OffloadDevice
from planner.models.traces import Crossing, ModelTrace
from planner.timeline import Handle

PLACES: Mapping[OffloadDevice, DeviceName] = {"cpu": "cpu", "gpu": "gpu", "gpu:1": "gpu1"}


class ActivationCache:
    """Every tensor that crosses a subgraph border. All batches' tensors of one name are one growing holding."""

    def __init__(self, context: Context, trace: ModelTrace) -> None:
        self._context, self._trace = context, trace
        self.device: DeviceName = PLACES[context.job.offload_device]
        self._holdings: dict[int, Handle] = {}

    def fill(self) -> None:
        """from_dataloader: store all batches. On the CPU the cache keeps the collated batches themselves."""
        kind = "calibration_data" if self.device == "cpu" else "activation_cache"
        full_batches = self._context.job.batches - 1
        for crossing in (c for c in self._trace.crossings.values() if c.producer < 0):
            handle = self._context.ledger.open(self.device, kind, f"calibration data: {crossing.name}")
            self._holdings[crossing.id] = handle
            self._context.ledger.grow(handle, full_batches * crossing.bytes, full_batches)
            self._context.ledger.grow(handle, self.size(crossing, last=True))

    def fetch(self, numbers: Sequence[int], *, last: bool = False) -> list[tuple[int, Handle]]:
        """Bring one batch to the computing device: as copies, or as nothing new when the cache is on that device.

        In the order in which they were stored: cache.py `fetch` walks a batch's dictionary, not the names asked for.
        A tensor that lies in the cache under several names lies there once (OverrideEqMode finds it), and is brought
        once for each name.
        """
        if self.device == self._context.device:
            return []
        crossings = [self._trace.crossings[n] for n in self._holdings for _ in range(numbers.count(n))]
        return [(c.id, self._context.take(self.size(c, last), "batch", f"batch: {c.name}")) for c in crossings]

    def size(self, crossing: Crossing, last: bool) -> int:
        """Bytes of one batch's tensor; the last batch may hold fewer samples."""
        job = self._context.job
        if not last or not crossing.batched:
            return crossing.bytes
        return crossing.bytes * job.last_batch_size // job.batch_size

    def batch_bytes(self, numbers: Iterable[int], *, last: bool = False) -> int:
        """Bytes of these tensors of one batch."""
        return sum(self.size(self._trace.crossings[number], last) for number in numbers)

    def store(self, numbers: Iterable[int], tensors: Mapping[int, Handle], *, last: bool = False) -> None:
        """Store these outputs of one batch: the very `tensors`, where they are given, or else copies."""
        ledger = self._context.ledger
        for number in numbers:
            tensor = tensors.get(number)
            if tensor is not None and ledger.size(tensor) == self.size(self._trace.crossings[number], last):
                ledger.give(tensor, self._holding(number))
                continue
            if tensor is not None:  # of a last batch whose tensors are not all known to be smaller
                ledger.free(tensor)
            self.update([number], last=last)

    def update(self, numbers: Iterable[int], *, batches: int = 1, last: bool = False) -> None:
        """Store copies of these outputs of `batches` batches (of the last, maybe smaller one)."""
        for number in numbers:
            size = self.size(self._trace.crossings[number], last)
            self._context.ledger.grow(self._holding(number), batches * size, batches)

    def _holding(self, number: int) -> Handle:
        if number not in self._holdings:
            owner = _owner(self._trace.crossings[number])
            self._holdings[number] = self._context.ledger.open(self.device, "activation_cache", owner)
        return self._holdings[number]

    def delete(self, numbers: Iterable[int], *, last: bool = False) -> list[Handle]:
        """Drop these names of one batch after their last reader.

        Where cache and batch share one tensor, returns those tensors: the batch dictionary still holds them.
        """
        ledger, still_held = self._context.ledger, []
        for number in numbers:
            crossing, holding = self._trace.crossings[number], self._holdings[number]
            nbytes = self.size(crossing, last)
            if self.device == self._context.device:
                still_held.append(ledger.part(holding, nbytes, "batch", f"batch: {crossing.name}"))
            else:
                ledger.grow(holding, -nbytes)
            if not ledger.size(holding):
                ledger.free(self._holdings.pop(number))
        return still_held

    def hand_over(self, name: str) -> Handle | None:
        """The holding of an input of this name that no subgraph reads: the caller's, for longer than the cache lives.

        None where the cache does not lie on the computing device.
        """
        if self.device != self._context.device:
            return None
        number = next(number for number in self._holdings if self._trace.crossings[number].name == name)
        return self._holdings.pop(number)

    def rename(self, old: Iterable[int], new: Iterable[int]) -> None:
        """Leave the cache as a repeated subgraph would: free what it consumed (`old`), store what it wrote (`new`)."""
        for number in old:
            self._context.ledger.free(self._holdings.pop(number))
        for number in new:
            self.update([number], batches=self._context.job.batches - 1)
            self.update([number], last=True)

    @property
    def held(self) -> frozenset[Handle]:
        """The holdings of everything in the cache."""
        return frozenset(self._holdings.values())

    def in_order(self) -> list[Handle]:
        """The same, as the crossings lie in the model."""
        return [handle for _, handle in sorted(self._holdings.items())]

    def clear(self) -> None:
        """Free everything: the pipeline returns."""
        self._context.ledger.free_all(self._holdings.values())
        self._holdings.clear()


def _owner(crossing: Crossing) -> Owner:
    return Owner(f"activation cache: {crossing.name}")
