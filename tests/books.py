"""Books that are kept twice: the ledger's own, and naive ones, event by event, to hold beside them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from planner.compress.context import Context
from planner.compress.devices import CountingDevice
from planner.compress.holdings import Peak
from planner.compress.ledger import Ledger
from planner.job import Job


@dataclass(slots=True)
class NaiveBooks:
    """One device, remembered event by event: (handle, change in bytes, change in blocks)."""

    live: dict[int, int] = field(default_factory=dict)
    blocks: dict[int, int] = field(default_factory=dict)
    log: list[tuple[int, int, int]] = field(default_factory=list)

    def peak(self) -> tuple[int, int, dict[int, int]]:
        """Maximum prefix sums over the log since the step began, and who held what at the first of them."""
        heights = list(accumulate((nbytes for _, nbytes, _ in self.log), initial=sum(self.live.values())))
        in_blocks = accumulate((nblocks for _, _, nblocks in self.log), initial=sum(self.blocks.values()))
        best, best_blocks = max(heights), max(in_blocks)
        at = _after(self.live, ((handle, nbytes) for handle, nbytes, _ in self.log[: heights.index(best)]))
        self.live = _after(self.live, ((handle, nbytes) for handle, nbytes, _ in self.log))
        self.blocks = _after(self.blocks, ((handle, nblocks) for handle, _, nblocks in self.log))
        self.log = []
        return best, best_blocks, at


def _after(before: dict[int, int], changes: Iterable[tuple[int, int]]) -> dict[int, int]:
    """What each handle holds once all changes are made; those that hold something."""
    held = dict(before)
    for handle, change in changes:
        held[handle] = held.get(handle, 0) + change
    return {handle: size for handle, size in held.items() if size}


class WatchedLedger(Ledger):
    """A ledger that also keeps naive books: every step is (its peak, the naive peak) per device."""

    def __init__(self, gpu_memory: int) -> None:
        super().__init__(gpu=CountingDevice(gpu_memory), keep="timeline", second=CountingDevice(gpu_memory))
        self.naive = {"gpu": NaiveBooks(), "cpu": NaiveBooks(), "gpu1": NaiveBooks()}
        self.steps: list[dict[str, tuple[Peak, tuple[int, int, dict[int, int]]]]] = []
        self.blocks: dict[int, int] = {}

    def alloc(self, device: Any, nbytes: int, kind: str, owner: Any) -> int:
        handle = super().alloc(device, nbytes, kind, owner)
        self._note(handle, nbytes, -(-nbytes // 512) * 512)
        return handle

    def free(self, handle: int) -> None:
        size, heir = self.size(handle), self._heirs.get(handle)
        if size and heir in self._home[handle].holdings:
            self._note_passed(handle, heir, size)
        else:
            self._note(handle, -size, -self.blocks.get(handle, 0))
        super().free(handle)

    def grow(self, handle: int, nbytes: int, tensors: int = 1) -> None:
        blocks = tensors * -(-(abs(nbytes) // max(1, tensors)) // 512) * 512
        self._note(handle, nbytes, blocks if nbytes >= 0 else -blocks)
        super().grow(handle, nbytes, tensors)

    def give(self, handle: int, heir: int) -> None:
        self._note_passed(handle, heir, self.size(handle))
        super().give(handle, heir)

    def part(self, handle: int, nbytes: int, kind: str, owner: Any) -> int:
        heir = super().part(handle, nbytes, kind, owner)
        self._note_passed(handle, heir, nbytes)
        return heir

    def _note_passed(self, handle: int, heir: int, nbytes: int) -> None:
        blocks = -(-nbytes // 512) * 512
        self._note(handle, -nbytes, -blocks)
        self._note(heir, nbytes, blocks)

    def _note(self, handle: int, nbytes: int, blocks: int) -> None:
        self.blocks[handle] = self.blocks.get(handle, 0) + blocks
        self.naive[self.about(handle).device].log.append((handle, nbytes, blocks))

    def close_step(self, modifier: str | None = None) -> dict[Any, Peak]:
        peaks = super().close_step(modifier)
        self.steps.append({device: (peaks[device], self.naive[device].peak()) for device in peaks})
        return peaks


def watched(toy_job: Job) -> tuple[Context, WatchedLedger]:
    ledger = WatchedLedger(toy_job.gpu_memory_bytes)
    return Context(toy_job, ledger), ledger
