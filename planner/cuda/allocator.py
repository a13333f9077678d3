"""PyTorch's caching allocator, without a card: which segments it takes from the driver for a stream of requests.

c10/cuda/CUDACachingAllocator.cpp DeviceCachingAllocator, torch 2.13 to 2.15, whose rules are the same (twelve jobs of
tests/measured/cuda, run with 2.13 and 2.14, are equal to the byte; docs/rehearse.md has 2.15):

| asked for | looked for in | otherwise a segment of |
|---|---|---|
| up to 1 MiB | the small pool of the stream | 2 MiB |
| below 10 MiB | the large pool of the stream | 20 MiB (`large_segment_size_mb`) |
| more | the large pool of the stream | the request, rounded up to 2 MiB |

Requests are rounded up to 512 bytes. The best free block is the smallest that is large enough, of equal ones the
oldest. What is left of it becomes a free block of its own, in the large pool only if it is more than
1 MiB: otherwise the whole block is handed out, which is why *allocated* can exceed the rounded requests. A freed block
merges with free neighbours of its segment. Segments stay with the process (*reserved*); only when the driver has no
more are the wholly free ones given back, and the driver is asked again. That is slow, and is counted.

Of equal free blocks the one in the segment that was taken first is chosen (`registration_counter`, torch 2.13 to 2.15),
in one segment the one that comes first: where the driver puts segments does not matter. 2.12 counts blocks instead of
segments, and takes the one that was made first; 2.11 and 2.10 take the lowest address.

A larger card may run out of memory where a smaller one gets through: what a retry gives back there stays here, is cut
for another request, and cannot be given back any more (tests/cuda/test_allocator_laws.py has an example).
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from planner.cuda.settings import DEFAULT, AllocatorSettings
from planner.units import BLOCK, MIB

# c10/core/AllocatorConfig.h
SMALL_REQUEST = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_REQUEST = 10 * MIB
ROUNDED_TO = 2 * MIB


class OutOfMemory(Exception):  # noqa: N818  (an outcome of a simulation, no error of planner's)
    """torch.OutOfMemoryError: the driver has no such segment, and giving back free ones did not help."""

    def __init__(self, asked: int, free: int) -> None:
        super().__init__(f"asking for {asked} bytes with {free} bytes free")
        self.asked = asked
        """Bytes of the tensor."""
        self.steps = 0
        """How many steps of a script were through before it happened."""
        self.free = free
        """Bytes that the driver had left."""


# A whole job asks for hundreds of thousands of blocks: everything below is plain integers, which Python compares,
# hashes and copies fastest, and its garbage collector never walks.

OFFSETS = 48
"""A *place* is the number of a segment, times 2^48, plus the offset in it. Numbers count from 1, in order of birth."""
PLACES = 72
"""The *key* of a free block is its size, times 2^72, plus its place: keys sort as blocks are looked for."""
PLACE = (1 << PLACES) - 1

Block = tuple[int, int, int, int]
"""What a tensor got: (bytes it asked for, place, size, number of the pool)."""


@dataclass(slots=True, eq=False)
class Pool:
    """The free blocks of one stream, small or large. No two of them touch."""

    number: int
    """Twice the stream, one more for small blocks."""
    is_small: bool
    least_unsplit: int
    """What may be left of a block without being split off, bytes."""
    keys: list[int] = field(default_factory=list)
    """All of them, sorted."""
    starts: dict[int, int] = field(default_factory=dict)
    """Size by the place where the block begins."""
    ends: dict[int, int] = field(default_factory=dict)
    """Size by the place behind it."""

    def remove(self, key: int) -> None:
        """The block is no longer free."""
        place, size = key & PLACE, key >> PLACES
        del self.keys[bisect_left(self.keys, key)], self.starts[place], self.ends[place + size]

    def refill(self, keys: Iterable[int]) -> None:
        """Exactly these blocks are free; their keys are sorted."""
        self.keys[:] = keys
        self.starts = {key & PLACE: key >> PLACES for key in self.keys}
        self.ends = {place + size: size for place, size in self.starts.items()}


@dataclass(slots=True)
class Use:
    """Bytes now, and the most since the last `restart`."""

    allocated: int = 0
    """Blocks that tensors have."""
    reserved: int = 0
    """Segments."""
    allocated_peak: int = 0
    reserved_peak: int = 0
    retries: int = 0
    """How often segments were given back because the driver had no more (PyTorch's num_alloc_retries), ever."""

    def restart(self) -> None:
        """A new step begins with what there is now."""
        self.allocated_peak, self.reserved_peak = self.allocated, self.reserved


Free = tuple[tuple[int, tuple[int, ...]], ...]
"""(number of the pool, keys of its free blocks) of each pool that has any."""
Live = tuple[tuple[Block, ...], ...]


def is_of_large_pool(number: int) -> bool:
    """Whether a pool of this number has blocks of more than 1 MiB, or what is left of them."""
    return not number & 1


Layout = tuple[tuple[int, ...], Free, Live, tuple[int, ...]]
"""(sizes of the segments in order of birth, free blocks, live blocks in their groups, ages where they matter)."""


@dataclass(slots=True)
class Band:
    """The cards on which all goes as it went on this one so far, by the bytes that PyTorch may take of them."""

    least: int = 0
    below: int | None = None
    """None: without end."""
    told_otherwise: set[tuple[int, int]] = field(default_factory=set)
    """(from, below): on these cards all goes alike up to a question, which has another answer there."""

    def needs(self, nbytes: int) -> None:
        """With less than this it would have gone otherwise."""
        self.least = max(self.least, nbytes)

    def lacks(self, nbytes: int) -> None:
        """With this much it would have gone otherwise."""
        self.below = nbytes if self.below is None else min(self.below, nbytes)

    def tells_otherwise(self, most: int, needed: int) -> None:
        """A question has another answer with less than was `needed`; up to it, `most` was reserved, and that did."""
        if most < needed:
            self.told_otherwise.add((most, needed))

    def is_told_otherwise(self, nbytes: int) -> bool:
        """On a card of which PyTorch may take so many bytes, some question surely has another answer."""
        return any(least <= nbytes < below for least, below in self.told_otherwise)

    def covers(self, nbytes: int) -> bool:
        """A card of which PyTorch may take so many bytes is one of them."""
        return self.least <= nbytes and (self.below is None or nbytes < self.below)


class CachingAllocator:
    """One process's allocator on one card, with PyTorch's default settings (planner/cuda/tuned.py has the others).

    `total`: bytes of the card as CUDA sees it, of which `context` are taken before PyTorch takes any; None for a card
    on which there is always room. `segments` gets every segment that is taken (its size) or given back (negative).
    """

    ages = False
    """What it does depends on when blocks were freed, too."""

    def __init__(
        self,
        total: int | None = None,
        context: int = 0,
        settings: AllocatorSettings = DEFAULT,
    ) -> None:
        self.total, self.context, self.settings = total, context, settings
        self.use = Use()
        self.band: Band | None = Band()
        """None where what it does depends on the card's size in other ways than by what the driver has left."""
        self.segments: list[int] = []
        self._pools: dict[int, Pool] = {}
        self._sizes: dict[int, int] = {}
        """Bytes of the segments by number, in order of birth."""
        self._count = 0
        """Of segments, ever."""

    # ------------------------------------------------------------------ what PyTorch calls
    def malloc(self, nbytes: int, stream: int = 0) -> Block:
        """A block for a tensor. Raises OutOfMemory."""
        size = nbytes + BLOCK - 1 & -BLOCK or BLOCK
        number = 2 * stream + (size <= SMALL_REQUEST)
        pool = self._pools.get(number) or self._pool(number)
        keys = pool.keys
        at = bisect_left(keys, size << PLACES)
        key = keys.pop(at) if at < len(keys) else self._segment(pool, size, nbytes)
        return self._hand_out(pool, key, size, nbytes)

    def free(self, block: Block) -> int:
        """free_block: the block joins its free neighbours, and stays with the process. Returns the key of all that."""
        _, place, size, number = block
        self.use.allocated -= size
        return self._join(self._pools[number], place, size)

    def malloc_all(self, nbytes: int, count: int, stream: int = 0) -> list[Block]:
        """`malloc`, so many times. Raises OutOfMemory.

        What is left of a best fit is the best fit for the next equal one: blocks are cut up whole.
        """
        size = nbytes + BLOCK - 1 & -BLOCK or BLOCK
        pool, blocks = self._pool(2 * stream + (size <= SMALL_REQUEST)), list[Block]()
        while (wanted := count - len(blocks)) > 0:
            at = bisect_left(pool.keys, size << PLACES)
            if at < len(pool.keys):
                blocks += self._cut_up(pool, pool.keys.pop(at), size, nbytes, wanted)
            else:
                blocks.append(self.malloc(nbytes, stream))
        return blocks

    def free_all(self, blocks: Iterable[Block]) -> None:
        """`free`, one after the other: what lies side by side goes together."""
        begin = end = number = 0
        for _, place, size, pool in blocks:
            self.use.allocated -= size
            if place == end and pool == number:
                end += size
                continue
            if end:
                self._join(self._pools[number], begin, end - begin)
            begin, end, number = place, place + size, pool
        if end:
            self._join(self._pools[number], begin, end - begin)

    def empty(self) -> None:
        """emptyCache: every segment without a tensor goes back to the driver."""
        self._release()

    @property
    def free_bytes(self) -> int:
        """What torch.cuda.mem_get_info calls free: cached blocks are not."""
        if self.total is None:
            raise ValueError("how large this card is was never said")
        return max(0, self.total - self.context - self.use.reserved)

    # ------------------------------------------------------------------ what lies where
    def layout(self, live: Iterable[Iterable[Block]]) -> Layout:
        """Where the free and these live blocks lie; equal where equal requests will be met alike.

        Segments are numbered from 1 in the order of their birth, whichever were given back before.
        """
        free = tuple((number, tuple(pool.keys)) for number, pool in sorted(self._pools.items()) if pool.keys)
        groups = tuple(map(tuple, live))
        if len(self._sizes) < self._count:
            free, groups = self._ranked(free, groups)
        return tuple(self._sizes.values()), free, groups, ()

    def rebuild(self, layout: Layout) -> list[list[Block]]:
        """Put these blocks in place of all that there is; the live ones are returned in their groups.

        Peaks begin anew. What was counted stays.
        """
        sizes, free, groups, _ = layout
        self._sizes, self._count = dict(enumerate(sizes, 1)), len(sizes)
        for pool in self._pools.values():
            pool.refill(())
        for number, keys in free:
            self._pool(number).refill(keys)
        for number in {number for group in groups for *_, number in group}:
            self._pool(number)
        self.use.reserved = sum(sizes)
        self.use.allocated = self.use.reserved - sum(key >> PLACES for _, keys in free for key in keys)
        self.use.restart()
        return list(map(list, groups))

    def _ranked(self, free: Free, groups: Live) -> tuple[Free, Live]:
        """The same with segments numbered without gaps."""
        down = {number: (number - rank) << OFFSETS for rank, number in enumerate(self._sizes, 1)}
        return (
            tuple((pool, tuple(key - down[(key & PLACE) >> OFFSETS] for key in keys)) for pool, keys in free),
            tuple(tuple((b[0], b[1] - down[b[1] >> OFFSETS], *b[2:]) for b in group) for group in groups),
        )

    # ------------------------------------------------------------------ inside
    def _cut_up(self, pool: Pool, key: int, size: int, nbytes: int, count: int) -> list[Block]:
        """`_hand_out` of this block and of what is left of it, `count` times at most."""
        place, found = key & PLACE, key >> PLACES
        count = min(count, found // size)
        last = place + (count - 1) * size
        others = [(nbytes, each, size, pool.number) for each in range(place, last, size)]
        self.use.allocated += last - place
        if last != place:
            del pool.starts[place]
            pool.starts[last] = found - (last - place)
        return [*others, self._hand_out(pool, found - (last - place) << PLACES | last, size, nbytes)]

    def _join(self, pool: Pool, place: int, size: int) -> int:
        """try_merge_blocks: these bytes are free now, with the free blocks at both ends of them. Returns the key."""
        keys, starts, ends = pool.keys, pool.starts, pool.ends
        end = place + size
        behind = starts.pop(end, 0)
        if behind:
            del keys[bisect_left(keys, behind << PLACES | end)]
            end += behind
        before = ends.pop(place, 0)
        if before:
            place -= before
            del keys[bisect_left(keys, before << PLACES | place)]
        size = starts[place] = ends[end] = end - place
        key = size << PLACES | place
        insort(keys, key)
        return key

    def _hand_out(self, pool: Pool, key: int, size: int, nbytes: int) -> Block:
        """alloc_found_block: the lower end of this block; what is left of it is free, if it is large enough."""
        place, found = key & PLACE, key >> PLACES
        del pool.starts[place]
        rest = found - size
        if rest > pool.least_unsplit:
            behind = place + size
            pool.starts[behind] = pool.ends[place + found] = rest
            insort(pool.keys, rest << PLACES | behind)
        else:
            del pool.ends[place + found]
            size = found
        use = self.use
        allocated = use.allocated = use.allocated + size
        if allocated > use.allocated_peak:
            use.allocated_peak = allocated
        return nbytes, place, size, pool.number

    def _pool(self, number: int) -> Pool:
        pool = self._pools.get(number)
        if pool is None:
            is_small = bool(number & 1)
            pool = self._pools[number] = Pool(number, is_small, 0 if is_small else SMALL_REQUEST)
        return pool

    def _segment(self, pool: Pool, size: int, nbytes: int) -> int:
        """A new segment, if need be after giving back free ones: the key of its one block, which is not free."""
        wanted = self._segment_size(size)
        if not self._has(wanted) and not (self._release_some(pool, size) and self._has(wanted)):
            self._release()
            self.use.retries += 1
            if not self._has(wanted):
                raise OutOfMemory(nbytes, self.free_bytes)
        return self._new(pool, wanted)

    def _release_some(self, pool: Pool, size: int) -> bool:
        """Give back only as many segments as are needed, where a setting says so; false: these are not enough."""
        return False

    def _segment_size(self, size: int) -> int:
        """get_allocation_size."""
        if size <= SMALL_REQUEST:
            return SMALL_SEGMENT
        if size < LARGE_REQUEST:
            return self.settings.large_segment_size
        return -(-size // ROUNDED_TO) * ROUNDED_TO

    def _has(self, wanted: int) -> bool:
        """The driver has so many bytes left."""
        if self.total is None:
            return True
        has, band = wanted <= self.free_bytes, self.band
        if band is not None:
            (band.needs if has else band.lacks)(self.use.reserved + wanted)
        return has

    def _new(self, pool: Pool, size: int) -> int:
        use = self.use
        use.reserved += size
        use.reserved_peak = max(use.reserved_peak, use.reserved)
        self.segments.append(size)
        self._count += 1
        self._sizes[self._count] = size
        place = self._count << OFFSETS
        pool.starts[place] = pool.ends[place + size] = size
        return size << PLACES | place

    def _give_back(self, pool: Pool, key: int) -> None:
        """release_block."""
        pool.remove(key)
        size = key >> PLACES
        del self._sizes[(key & PLACE) >> OFFSETS]
        self.use.reserved -= size
        self.segments.append(-size)

    def _is_whole(self, key: int) -> bool:
        """The free block is all of its segment."""
        place = key & PLACE
        return self._sizes[place >> OFFSETS] == key >> PLACES

    def _release(self) -> None:
        """release_cached_blocks: every segment that is wholly free, large ones first, stream by stream."""
        for pool in sorted(self._pools.values(), key=lambda pool: (pool.is_small, pool.number)):
            for key in list(pool.keys):
                if self._is_whole(key):
                    self._give_back(pool, key)
