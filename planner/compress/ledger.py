"""The books: every byte has a device, a kind, an owner and a step. Peaks are folds over them.

Bytes are requested bytes; each tensor also counts in 512-byte blocks, the unit of PyTorch's
caching allocator (c10/cuda/CUDACachingAllocator.cpp kMinBlockSize), for the allocated figure.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from planner.units import in_blocks

Device = Literal["gpu", "cpu"]
Handle = int

LARGEST = 8


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds bytes: `model.layers.0.mlp.down_proj` and 3 more, and in which role: `Hessian`."""

    name: str
    role: str = ""
    copies: int = 1
    """How many equal ones this name stands for."""

    def __str__(self) -> str:
        others = f" and {self.copies - 1} more" if self.copies > 1 else ""
        return f"{self.name}{others} {self.role}".rstrip()

    def part(self, role: str) -> "Owner":
        """The same one in a narrower role: its Hessian, its input in fp32."""
        return replace(self, role=f"{self.role} {role}".strip())

    def renamed(self, names: Mapping[str, str]) -> "Owner":
        """The same in another module: `names` maps modules, and so all that lies in them."""
        for old, new in names.items():
            if self.name == old or self.name.startswith((f"{old}.", f"{old} ")):
                return replace(self, name=new + self.name[len(old) :])
        return self


@dataclass(frozen=True, slots=True)
class Holding:
    """What one owner holds, summed over its tensors."""

    owner: Owner
    kind: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """One device in one step. `by_kind` sums to `bytes`."""

    bytes: int
    allocated: int
    """Highest in 512-byte blocks; it may occur at another moment than `bytes`."""
    end: int
    by_kind: dict[str, int]
    largest: tuple[Holding, ...]


@dataclass(slots=True)
class _Books:
    """One device: what is live, and what happened since the step began."""

    live: int = 0
    live_blocks: int = 0
    peak: int = 0
    peak_blocks: int = 0
    peak_at: int = 0
    holdings: dict[Handle, int] = field(default_factory=dict)
    log: list[tuple[Handle, int]] = field(default_factory=list)


class Ledger:
    """Holds on both devices, cut into steps. It never forgets to free: `live` tells what is left."""

    def __init__(self) -> None:
        self._books: dict[Device, _Books] = {"gpu": _Books(), "cpu": _Books()}
        self._about: list[tuple[Device, str, Owner]] = []
        self._blocks: list[int] = []

    def alloc(self, device: Device, nbytes: int, kind: str, owner: Owner | str) -> Handle:
        """Take `nbytes` for `owner` until `free`; a plain text is an owner without a role."""
        if nbytes < 0:
            raise ValueError(f"{owner}: {nbytes} bytes")
        handle = len(self._about)
        self._about.append((device, kind, owner if isinstance(owner, Owner) else Owner(owner)))
        self._blocks.append(0)
        self._books[device].holdings[handle] = 0
        self._move(handle, nbytes, in_blocks(nbytes))
        return handle

    def free(self, handle: Handle) -> None:
        """Give back all that `handle` holds."""
        books = self._books[self._about[handle][0]]
        self._move(handle, -books.holdings[handle], -self._blocks[handle])
        del books.holdings[handle]

    def free_all(self, handles: Iterable[Handle]) -> None:
        """Give back several."""
        for handle in handles:
            self.free(handle)

    def grow(self, handle: Handle, nbytes: int, tensors: int = 1) -> None:
        """Change a holding by `nbytes` (negative: shrink), spread over `tensors` equal tensors."""
        sign = 1 if nbytes >= 0 else -1
        self._move(handle, nbytes, sign * tensors * in_blocks(abs(nbytes) // max(1, tensors)))

    @contextmanager
    def hold(self, device: Device, nbytes: int, kind: str, owner: Owner | str) -> Iterator[Handle]:
        """The indentation is the lifetime."""
        handle = self.alloc(device, nbytes, kind, owner)
        try:
            yield handle
        finally:
            self.free(handle)

    def live(self, device: Device) -> int:
        """Bytes held now."""
        return self._books[device].live

    def size(self, handle: Handle) -> int:
        """Bytes that `handle` holds now."""
        return self._books[self._about[handle][0]].holdings[handle]

    def about(self, handle: Handle) -> tuple[Device, str, Owner]:
        """Device, kind and owner."""
        return self._about[handle]

    def live_by_kind(self, device: Device) -> dict[str, int]:
        """What is held now, by kind."""
        return self._by_kind(self._books[device].holdings)

    def close_step(self) -> dict[Device, Peak]:
        """End the step: the peaks since the one before, and start the next."""
        return {device: self._close(books) for device, books in self._books.items()}

    # ------------------------------------------------------------------ inside
    def _move(self, handle: Handle, nbytes: int, blocks: int) -> None:
        books = self._books[self._about[handle][0]]
        books.holdings[handle] += nbytes
        self._blocks[handle] += blocks
        books.live += nbytes
        books.live_blocks += blocks
        books.log.append((handle, nbytes))
        if books.live > books.peak:
            books.peak, books.peak_at = books.live, len(books.log)
        if books.live_blocks > books.peak_blocks:
            books.peak_blocks = books.live_blocks

    def _close(self, books: _Books) -> Peak:
        at_peak = dict(books.holdings)
        for handle, nbytes in reversed(books.log[books.peak_at :]):
            at_peak[handle] = at_peak.get(handle, 0) - nbytes
        peak = Peak(
            bytes=books.peak,
            allocated=books.peak_blocks,
            end=books.live,
            by_kind=self._by_kind(at_peak),
            largest=self._largest(at_peak),
        )
        books.peak, books.peak_blocks, books.peak_at = books.live, books.live_blocks, 0
        books.log.clear()
        return peak

    def _by_kind(self, holdings: dict[Handle, int]) -> dict[str, int]:
        sums: dict[str, int] = defaultdict(int)
        for handle, nbytes in holdings.items():
            sums[self._about[handle][1]] += nbytes
        return {kind: nbytes for kind, nbytes in sorted(sums.items(), key=lambda item: -item[1]) if nbytes}

    def _largest(self, holdings: dict[Handle, int]) -> tuple[Holding, ...]:
        sums: dict[tuple[Owner, str], int] = defaultdict(int)
        for handle, nbytes in holdings.items():
            if nbytes:
                _, kind, owner = self._about[handle]
                sums[owner, kind] += nbytes
        ranked = sorted(sums.items(), key=lambda item: (-item[1], str(item[0][0]), item[0][1]))[:LARGEST]
        return tuple(Holding(owner, kind, nbytes) for (owner, kind), nbytes in ranked)
