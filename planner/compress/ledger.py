"""The books: every byte has a device, a kind, an owner and a step. Peaks are folds over the stream of events.

A *handle* names a holding: one tensor, or tensors that are counted together because the library keeps one for each
batch (`open`, then `grow`). Whatever is taken or given back becomes an event (planner/timeline.py); the books, the
device and, with `keep="timeline"`, the timeline see the same events in the same order.

Bytes are requested bytes; each tensor also counts in 512-byte blocks, for the allocated figure.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from planner.compress.devices import CountingDevice, Device
from planner.timeline import Level, MemoryEvent

DeviceName = Literal["gpu", "cpu"]
Keep = Literal["peaks", "timeline"]
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
class About:
    """Where a holding lies, what it is for, and whose it is."""

    device: DeviceName
    kind: str
    owner: Owner


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """One device's whole job: every event in order, and where its steps end."""

    events: tuple[MemoryEvent, ...]
    ends: tuple[int, ...]
    """For each closed step, the number of events up to its end."""
    about: tuple[About, ...]
    """Of every holding, by its number."""

    def step(self, index: int) -> tuple[MemoryEvent, ...]:
        """The events of one step."""
        return self.events[self.ends[index - 1] if index else 0 : self.ends[index]]


@dataclass(slots=True)
class _Books:
    """One device: what is live, and what happened since the step began."""

    device: Device
    level: Level = field(default_factory=Level)
    holdings: dict[Handle, int] = field(default_factory=dict)
    log: list[MemoryEvent] = field(default_factory=list)
    past: list[MemoryEvent] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


class Ledger:
    """Holds on both devices, cut into steps. It never forgets to free: `live` tells what is left."""

    def __init__(self, gpu: Device | None = None, cpu: Device | None = None, keep: Keep = "peaks") -> None:
        self._books: dict[DeviceName, _Books] = {
            "gpu": _Books(gpu or CountingDevice()),
            "cpu": _Books(cpu or CountingDevice()),
        }
        self.keep = keep
        self._about: list[About] = []
        self._growing: dict[Handle, dict[int, int]] = {}

    # ------------------------------------------------------------------ taking and giving back
    def alloc(self, device: DeviceName, nbytes: int, kind: str, owner: Owner | str) -> Handle:
        """Take one tensor of `nbytes` for `owner` until `free`; a plain text is an owner without a role."""
        if nbytes < 0:
            raise ValueError(f"{owner}: {nbytes} bytes")
        handle = self._entered(device, kind, owner)
        self._move(handle, nbytes, 1)
        return handle

    def open(self, device: DeviceName, kind: str, owner: Owner | str) -> Handle:
        """A holding without a tensor, to `grow` with the batches."""
        handle = self._entered(device, kind, owner)
        self._growing[handle] = {}
        return handle

    def grow(self, handle: Handle, nbytes: int, tensors: int = 1) -> None:
        """Change a holding by `nbytes` (negative: shrink), spread over `tensors` equal tensors."""
        if not nbytes or not tensors:
            return
        each, count = abs(nbytes) // tensors, tensors if nbytes > 0 else -tensors
        sizes = self._growing.setdefault(handle, self._sizes(handle))
        sizes[each] = sizes.get(each, 0) + count
        if not sizes[each]:
            del sizes[each]
        self._move(handle, each, count)

    def free(self, handle: Handle) -> None:
        """Give back all that `handle` holds."""
        for nbytes, count in self._sizes(handle).items():
            self._move(handle, nbytes, -count)
        self._growing.pop(handle, None)
        del self._books[self._about[handle].device].holdings[handle]

    def free_all(self, handles: Iterable[Handle]) -> None:
        """Give back several, in their order."""
        for handle in handles:
            self.free(handle)

    @contextmanager
    def hold(self, device: DeviceName, nbytes: int, kind: str, owner: Owner | str) -> Iterator[Handle]:
        """The indentation is the lifetime."""
        handle = self.alloc(device, nbytes, kind, owner)
        try:
            yield handle
        finally:
            self.free(handle)

    def relabel(self, handle: Handle, owner: Owner) -> None:
        """The holding is another's from now on; nothing moves."""
        self._about[handle] = replace(self._about[handle], owner=owner)

    # ------------------------------------------------------------------ what is there
    def live(self, device: DeviceName) -> int:
        """Bytes held now."""
        return self._books[device].level.live

    def free_bytes(self, device: DeviceName) -> int:
        """What the device has left, as the library would be told."""
        return self._books[device].device.free_bytes()

    def size(self, handle: Handle) -> int:
        """Bytes that `handle` holds now."""
        return self._books[self._about[handle].device].holdings[handle]

    def about(self, handle: Handle) -> About:
        """Device, kind and owner."""
        return self._about[handle]

    def live_by_kind(self, device: DeviceName) -> dict[str, int]:
        """What is held now, by kind."""
        return self._by_kind(self._books[device].holdings)

    def growth(self) -> dict[Handle, dict[int, int]]:
        """The tensors of every growing holding: number by size."""
        return {handle: dict(sizes) for handle, sizes in self._growing.items()}

    def state(self) -> Hashable:
        """Equal where the same work would be done alike: what is live beside growing holdings, and the devices."""
        live: dict[tuple[About, int], int] = defaultdict(int)
        for books in self._books.values():
            for handle, nbytes in books.holdings.items():
                if handle not in self._growing:
                    live[self._about[handle], nbytes] += 1
        devices = tuple(books.device.state() for books in self._books.values())
        return frozenset(live.items()), devices

    def device_states(self) -> Hashable:
        """The devices' own part of the state."""
        return tuple(books.device.state() for books in self._books.values())

    def others(self, handles: Collection[Handle]) -> Hashable:
        """What is live beside these: equal as long as no other holding is taken, changed or given back."""
        holdings = (holding for books in self._books.values() for holding in books.holdings.items())
        return frozenset((handle, nbytes) for handle, nbytes in holdings if handle not in handles)

    # ------------------------------------------------------------------ steps
    def close_step(self) -> dict[DeviceName, Peak]:
        """End the step: the peaks since the one before, and start the next."""
        return {device: self._close(books) for device, books in self._books.items()}

    def timeline(self, device: DeviceName) -> Timeline:
        """All events so far, if the ledger was told to keep them."""
        if self.keep != "timeline":
            raise ValueError('this ledger keeps peaks alone; make it with keep="timeline"')
        books = self._books[device]
        return Timeline(events=(*books.past, *books.log), ends=tuple(books.ends), about=tuple(self._about))

    # ------------------------------------------------------------------ inside
    def _entered(self, device: DeviceName, kind: str, owner: Owner | str) -> Handle:
        handle = len(self._about)
        self._about.append(About(device, kind, owner if isinstance(owner, Owner) else Owner(owner)))
        self._books[device].holdings[handle] = 0
        return handle

    def _sizes(self, handle: Handle) -> dict[int, int]:
        """The tensors of a holding: number by size."""
        sizes = self._growing.get(handle)
        if sizes is not None:
            return sizes
        nbytes = self.size(handle)
        return {nbytes: 1} if nbytes else {}

    def _move(self, handle: Handle, nbytes: int, count: int) -> None:
        if not nbytes:
            return
        books = self._books[self._about[handle].device]
        event = MemoryEvent(handle, nbytes, count)
        books.holdings[handle] += nbytes * count
        books.log.append(event)
        books.level.add(event)
        books.device.apply(event)

    def _close(self, books: _Books) -> Peak:
        level, at_peak = books.level, dict(books.holdings)
        for handle, nbytes, count in reversed(books.log[level.at :]):
            at_peak[handle] = at_peak.get(handle, 0) - nbytes * count
        peak = Peak(
            bytes=level.peak,
            allocated=level.peak_blocks,
            end=level.live,
            by_kind=self._by_kind(at_peak),
            largest=self._largest(at_peak),
        )
        if self.keep == "timeline":
            books.past += books.log
            books.ends.append(len(books.past))
        books.log.clear()
        level.restart()
        return peak

    def _by_kind(self, holdings: dict[Handle, int]) -> dict[str, int]:
        sums: dict[str, int] = defaultdict(int)
        for handle, nbytes in holdings.items():
            sums[self._about[handle].kind] += nbytes
        return {kind: nbytes for kind, nbytes in sorted(sums.items(), key=lambda item: -item[1]) if nbytes}

    def _largest(self, holdings: dict[Handle, int]) -> tuple[Holding, ...]:
        sums: dict[tuple[Owner, str], int] = defaultdict(int)
        for handle, nbytes in holdings.items():
            if nbytes:
                about = self._about[handle]
                sums[about.owner, about.kind] += nbytes
        ranked = sorted(sums.items(), key=lambda item: (-item[1], str(item[0][0]), item[0][1]))[:LARGEST]
        return tuple(Holding(owner, kind, nbytes) for (owner, kind), nbytes in ranked)
