"""The books: every byte has a device, a kind, an owner and a step. Peaks are folds over the stream of events.

A *handle* names a holding: one tensor, or tensors that are counted together because the library keeps one for each
batch (`open`, then `grow`). Whatever is taken or given back becomes an event (planner/timeline.py); the books, the
device and, with `keep="timeline"`, the timeline see the same events in the same order.

Bytes are requested bytes; each tensor also counts in 512-byte blocks, for the allocated figure.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Literal

from planner.compress.books import Books
from planner.compress.devices import (
    Claims,
    CountingDevice,
    Device,
    Layout,
    Question,
)
from planner.compress.holdings import About, DeviceName, Holding, Mark, Owner, Peak, Sight, Timeline
from planner.compress.tape import Part
from planner.compress.temporary import Temporary
from planner.compress.watching import Watch, WatchedBooks, Watcher
from planner.cuda.allocator import is_of_large_pool
from planner.errors import UnsupportedError
from planner.timeline import Handle

Keep = Literal["peaks", "timeline"]

LARGEST = 8


class Ledger:
    """Holds on the devices, cut into steps. It never forgets to free: `live` tells what is left.

    `second` is a second card; without it there is none. `watcher` is shown every step before it is forgotten.
    """

    def __init__(
        self,
        gpu: Device | None = None,
        cpu: Device | None = None,
        keep: Keep = "peaks",
        second: Device | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._handles = count()
        self.watch = Watch(watcher) if watcher else None
        devices: dict[DeviceName, Device] = {"gpu": gpu or CountingDevice(), "cpu": cpu or CountingDevice()}
        if second is not None:
            devices["gpu1"] = second
        self._books: dict[DeviceName, Books] = {name: self._opened(name, device) for name, device in devices.items()}
        self.keep = keep
        # kinds and owners apart: a record for each of 100,000 tensors would keep the garbage collector busy
        self._kinds: dict[Handle, str] = {}
        self._owners: dict[Handle, Owner] = {}
        self._home: dict[Handle, Books] = {}
        self._growing: dict[Handle, dict[int, int]] = {}
        self._heirs: dict[Handle, Handle] = {}
        self._sharers: dict[Handle, set[Handle]] = {}

    # ------------------------------------------------------------------ taking and giving back
    def alloc(self, device: DeviceName, nbytes: int, kind: str, owner: Owner | str) -> Handle:
        """Take one tensor of `nbytes` for `owner` until `free`; a plain text is an owner without a role."""
        if nbytes < 0:
            raise ValueError(f"{owner}: {nbytes} bytes")
        handle = self._entered(device, kind, owner)
        self._home[handle].move(handle, nbytes, 1)
        return handle

    def open(self, device: DeviceName, kind: str, owner: Owner | str) -> Handle:
        """A holding without a tensor, to `grow` with the batches."""
        handle = self._entered(device, kind, owner)
        self._growing[handle] = {}
        return handle

    def grow(self, handle: Handle, nbytes: int, tensors: int = 1) -> None:
        """Change a holding by `nbytes` (negative: shrink), spread over `tensors` equal tensors.

        Raises ValueError where these bytes are not so many equal tensors, and where it holds less than it is to lose.
        """
        if not nbytes or not tensors:
            return
        if self.size(handle) + nbytes < 0:
            raise ValueError(f"{self._owners[handle]}: {nbytes} bytes, and it holds {self.size(handle)}")
        if nbytes % tensors:
            raise ValueError(f"{self._owners[handle]}: {nbytes} bytes are not {tensors} equal tensors")
        each, change = abs(nbytes) // tensors, tensors if nbytes > 0 else -tensors
        self._tally(handle, each, change)
        self._home[handle].move(handle, each, change)

    def give(self, handle: Handle, heir: Handle) -> None:
        """Count the one tensor of `handle`, which ends, in the growing holding `heir`: no memory moves."""
        nbytes = self.size(handle)
        self._tally(heir, nbytes, 1)
        self._home[handle].pass_on(handle, heir, nbytes)
        del self._home[handle].holdings[handle]
        self._home[handle].gone.append(handle)

    def part(self, handle: Handle, nbytes: int, kind: str, owner: Owner | str) -> Handle:
        """A holding of its own for the oldest tensor of `nbytes` of a growing one: no memory moves."""
        heir = self._entered(self._home[handle].name, kind, owner)
        self._tally(handle, nbytes, -1)
        self._home[handle].pass_on(handle, heir, nbytes)
        return heir

    def _tally(self, handle: Handle, each: int, change: int) -> None:
        """Note how many tensors of which size a growing holding has now."""
        sizes = self._growing.get(handle)
        if sizes is None:
            single = self.size(handle)
            sizes = self._growing[handle] = {single: 1} if single else {}
        sizes[each] = sizes.get(each, 0) + change
        if not sizes[each]:
            del sizes[each]

    def bequeath(self, handle: Handle, heir: Handle) -> None:
        """When the one tensor of `handle` is freed, count it in the growing holding `heir`, if that is still there.

        Of several heirs the last one counts it: it must also be the last to be freed.
        """
        if self._home[handle] is not self._home[heir]:
            raise ValueError(f"{self.about(handle)} and {self.about(heir)} lie on two devices")
        earlier = self._heirs.get(handle, heir)
        if earlier != heir and heir in self._sharers.get(earlier, ()):
            return
        if earlier != heir:
            self._sharers.setdefault(heir, set()).add(earlier)
        self._heirs[handle] = heir

    def free(self, handle: Handle) -> None:
        """Give back all that `handle` holds."""
        books = self._home[handle]
        if handle in self._heirs or handle in self._sharers:
            self._settle(handle, books)
        sizes = self._growing.pop(handle, None)
        if sizes is None:
            books.move(handle, books.holdings[handle], -1)
        else:
            for nbytes, tensors in sizes.items():
                books.move(handle, nbytes, -tensors)
        del books.holdings[handle]
        books.gone.append(handle)

    def free_all(self, handles: Iterable[Handle]) -> None:
        """Give back several, in their order."""
        for handle in handles:
            self.free(handle)

    def hold(self, device: DeviceName, nbytes: int, kind: str, owner: Owner | str) -> Temporary:
        """`with` it, the indentation is the lifetime."""
        return Temporary(self, device, nbytes, kind, owner)

    def relabel(self, handle: Handle, owner: Owner) -> None:
        """Give the holding to another owner; no memory moves."""
        self._owners[handle] = owner

    # ------------------------------------------------------------------ what is there
    @property
    def devices(self) -> tuple[DeviceName, ...]:
        """The devices that have books."""
        return tuple(self._books)

    def live(self, device: DeviceName) -> int:
        """Bytes held now."""
        return self._books[device].follow().live

    def free_bytes(self, device: DeviceName) -> int:
        """What the device has left, as the library would be told."""
        books = self._books[device]
        return books.caught_up().free_bytes(books.follow().live)

    def places(self, device: DeviceName) -> bool:
        """The device gives each tensor a place."""
        return self._books[device].device.places

    def size(self, handle: Handle) -> int:
        """Bytes that `handle` holds now."""
        return self._home[handle].holdings[handle]

    def about(self, handle: Handle) -> About:
        """Device, kind and owner."""
        return About(self._home[handle].name, self._kinds[handle], self._owners[handle])

    def live_by_kind(self, device: DeviceName) -> dict[str, int]:
        """What is held now, by kind."""
        return self._by_kind(self._books[device].holdings)

    def growth(self) -> dict[Handle, dict[int, int]]:
        """The tensors of every growing holding: number by size."""
        return {handle: dict(sizes) for handle, sizes in self._growing.items()}

    def state(self, *, with_places: bool = True) -> Hashable:
        """Equal where the same work would be done alike: what is live beside growing holdings, and where it lies."""
        live: dict[tuple[DeviceName, str, int], int] = defaultdict(int)
        kinds, growing = self._kinds, self._growing
        for books in self._books.values():
            for handle, nbytes in books.holdings.items():
                if handle not in growing:
                    live[books.name, kinds[handle], nbytes] += 1
        return frozenset(live.items()), self.layout("gpu") if with_places else None

    def claims(self, device: DeviceName) -> Claims:
        """What the device has of the driver; nothing for one that only counts."""
        return self._books[device].caught_up().claims

    def layout(self, device: DeviceName, last: Sequence[Handle] = ()) -> Layout:
        """How the device holds what is live. Holdings are told apart by the order of their birth, but `last` come last,
        in their order: in two layouts that are equal, equal places are held by holdings of the same part."""
        books = self._books[device]
        return books.caught_up().layout(books.ordered(last)) if books.device.places else None

    def large_places(self, device: DeviceName) -> Hashable:
        """The same of tensors and free blocks of the large pools alone; the others hardly ever decide a segment."""
        layout = self.layout(device)
        if layout is None:
            return None
        sizes, free, groups, _ = layout
        live = (tuple(block for block in group if is_of_large_pool(block[3])) for group in groups)
        return sizes, tuple(pool for pool in free if is_of_large_pool(pool[0])), tuple(group for group in live if group)

    def parts(self, device: DeviceName, last: Sequence[Handle]) -> tuple[Handle, ...]:
        """Holdings that are live on the device, in the order of their birth, but `last` at the end."""
        return tuple(self._books[device].ordered(last))

    def tape(self, device: DeviceName) -> list[Part]:
        """All that was done on the device so far; empty if tensors have no places there."""
        books = self._books[device]
        books.caught_up()
        return books.tape

    def ask(self, device: DeviceName, nbytes: int, percent: int, wanted: int) -> int:
        """How many of `wanted` equal parts go into this share of what is free on the device; one at least."""
        books, question = self._books[device], Question(nbytes, percent, wanted, 0)
        question = replace(question, answer=question.answered(self.free_bytes(device)))
        if books.is_placed:
            books.ahead.append(question)
        return question.answer

    def empty_cache(self, device: DeviceName) -> None:
        """torch.cuda.empty_cache: what is cached and not held goes back to the driver."""
        self._books[device].empty()

    def device(self, name: DeviceName) -> Device:
        """The device behind these books, which has done all that was done so far."""
        return self._books[name].caught_up()

    def note(self, device: DeviceName, part: Part) -> None:
        """Note on the tape what the device did without the books."""
        self._books[device].note(part)

    def restore(self, device: DeviceName, layout: Layout, parts: Sequence[Handle]) -> None:
        """Make the device what it was in this layout, for these holdings, in the order of `parts`."""
        self._books[device].caught_up().restore(layout, parts)

    @contextmanager
    def unplaced(self) -> Iterator[None]:
        """Inside, the books alone are kept: devices and watcher see nothing; the devices are to be restored afterwards.

        To be left at the end of a step: whoever watches sees the next one from its beginning.
        """
        watch, self.watch = self.watch, None
        for books in self._books.values():
            books.caught_up()
            books.is_placed = False
        try:
            yield
        finally:
            self.watch = watch
            if watch:
                watch.restart()  # the books count on inside, whoever looks
            for books in self._books.values():
                books.is_placed = books.device.places

    @contextmanager
    def on_stream(self, device: DeviceName, stream: int) -> Iterator[None]:
        """Inside, tensors are taken on this CUDA stream of the device."""
        books = self._books[device]
        before = books.switch(stream)
        try:
            yield
        finally:
            books.switch(before)

    def mark(self) -> Mark:
        """Now, to see later what happened since."""
        return Mark(next(self._handles), {name: len(books.log) for name, books in self._books.items()})

    def again(self, marks: Sequence[Mark], times: int) -> bool:
        """What happened since the last of these marks happens so many times more, if it is what happened between the
        last two, and what is held has not changed by it. The books stay as they are. False where it is not so."""
        since, blocks = marks[0].since, []
        for name, books in self._books.items():
            block = books.last_block([mark.events[name] for mark in marks], since)
            if block is None:
                return False
            blocks.append((books, block))
        for books, block in blocks:
            books.again(block, times)
        return True

    def others(self, handles: Collection[Handle]) -> Hashable:
        """What is live beside these: equal as long as no other holding is taken, changed or given back."""
        holdings = (holding for books in self._books.values() for holding in books.holdings.items())
        return frozenset((handle, nbytes) for handle, nbytes in holdings if handle not in handles)

    # ------------------------------------------------------------------ steps
    def close_step(self, modifier: str | None = None) -> dict[DeviceName, Peak]:
        """End the step: the peaks since the one before, and start the next. `modifier`: whose it was, for a watcher."""
        peaks = {device: self._close(books, modifier) for device, books in self._books.items()}
        if self.watch:
            self.watch.restart()
        return peaks

    def timeline(self, device: DeviceName) -> Timeline:
        """All events so far, if the ledger was told to keep them."""
        if self.keep != "timeline":
            raise ValueError('this ledger keeps peaks alone; make it with keep="timeline"')
        books = self._books[device]
        return Timeline(
            events=(*books.past, *books.log),
            ends=tuple(books.ends),
            about={handle: self.about(handle) for handle in self._home},
        )

    # ------------------------------------------------------------------ inside
    def _opened(self, name: DeviceName, device: Device) -> Books:
        if self.watch is None:
            return Books(name, device, self._handles)
        return WatchedBooks(name, device, self._handles, watch=self.watch)

    def _shown(self, books: Books, modifier: str | None) -> Sight | None:
        """What the watcher makes of the step that ends."""
        if self.watch is None or not isinstance(books, WatchedBooks):
            return None
        return Sight(picture=self.watch.watcher(books.shown(self.about, modifier)), renames={})

    def _entered(self, device: DeviceName, kind: str, owner: Owner | str) -> Handle:
        handle, books = next(self._handles), self._books[device]
        self._kinds[handle] = kind
        self._owners[handle] = owner if isinstance(owner, Owner) else Owner(owner)
        self._home[handle] = books
        books.holdings[handle] = 0
        return handle

    def _close(self, books: Books, modifier: str | None) -> Peak:
        level, at_peak, held = books.follow(), books.at_peak(), books.close_step()
        peak = Peak(
            bytes=level.peak,
            allocated=held.allocated if held else level.peak_blocks,
            end=level.live,
            by_kind=self._by_kind(at_peak),
            largest=self._largest(at_peak),
            held=held,
            seen=self._shown(books, modifier),
        )
        if self.keep == "timeline":
            books.past += books.log
            books.ends.append(len(books.past))
        else:  # nobody can ask for them any more
            for handle in books.gone:
                del self._kinds[handle], self._owners[handle], self._home[handle]
        books.restart()
        return peak

    def _settle(self, handle: Handle, books: Books) -> None:
        """Leave what `handle` holds to its heir, before it is freed."""
        sharers = self._sharers.pop(handle, ())
        if any(sharer in books.holdings for sharer in sharers):
            raise UnsupportedError(f"{self._owners[handle]} go before an earlier one that shares tensors with them")
        heir = self._heirs.pop(handle, None)
        nbytes = books.holdings[handle]
        if heir in books.holdings and nbytes:
            self._tally(heir, nbytes, 1)
            books.pass_on(handle, heir, nbytes)

    def _by_kind(self, holdings: dict[Handle, int]) -> dict[str, int]:
        sums: dict[str, int] = defaultdict(int)
        for handle, nbytes in holdings.items():
            sums[self._kinds[handle]] += nbytes
        return {kind: nbytes for kind, nbytes in sorted(sums.items(), key=lambda item: -item[1]) if nbytes}

    def _largest(self, holdings: dict[Handle, int]) -> tuple[Holding, ...]:
        sums: dict[tuple[Owner, str], int] = defaultdict(int)
        for handle, nbytes in holdings.items():
            if nbytes:
                sums[self._owners[handle], self._kinds[handle]] += nbytes
        ranked = sorted(sums.items(), key=lambda item: (-item[1], str(item[0][0]), item[0][1]))[:LARGEST]
        return tuple(Holding(owner, kind, nbytes) for (owner, kind), nbytes in ranked)
