"""PyTorch's caching allocator, without a card: which segments it takes from the driver for a stream of requests.

c10/cuda/CUDACachingAllocator.cpp DeviceCachingAllocator, torch 2.13 and 2.14, whose rules are the same:

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

Of equal free blocks the one in the segment that was taken first is chosen (`registration_counter`, torch 2.14; earlier
versions take the lowest address), so where the driver puts segments does not matter.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

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
        self.free = free
        """Bytes that the driver had left."""


Key = tuple[int, int]
"""(size, place) of a free block: the order in which blocks are looked for."""

OFFSETS = 48
"""A place is the number of the segment, times 2^48, plus the offset in it."""

PoolKey = tuple[bool, int]
"""(small, stream)."""

Placed = tuple[int, int, int]
"""A block: (number of its segment, offset, size)."""


@dataclass(slots=True, eq=False)
class Pool:
    """The free blocks of one stream, small or large."""

    key: PoolKey
    is_small: bool
    keys: list[Key] = field(default_factory=list)
    blocks: dict[Key, "Block"] = field(default_factory=dict)
    searches: int = 0
    """How often a block was looked for: the clock of garbage collection."""

    def insert(self, block: "Block") -> None:
        """The block is free now."""
        key = (block.size, block.place)
        insort(self.keys, key)
        self.blocks[key] = block

    def remove(self, block: "Block") -> None:
        """The block is no longer free, or about to change its size."""
        key = (block.size, block.place)
        del self.keys[bisect_left(self.keys, key)]
        del self.blocks[key]


@dataclass(slots=True, eq=False)
class Block:
    """A part of a segment: free, or a tensor's."""

    pool: Pool
    place: int
    size: int
    before: "Block | None" = None
    behind: "Block | None" = None
    requested: int = 0
    """Bytes that the tensor asked for; 0 for a free block."""
    taken: bool = False
    born: int = 0
    """The pool's clock when the block became free."""

    @property
    def is_whole(self) -> bool:
        """The block is all of its segment."""
        return self.before is None and self.behind is None


@dataclass(slots=True)
class Use:
    """Bytes now, and the most since the last `restart`."""

    requested: int = 0
    allocated: int = 0
    reserved: int = 0
    requested_peak: int = 0
    allocated_peak: int = 0
    reserved_peak: int = 0
    retries: int = 0
    """How often segments were given back because the driver had no more (PyTorch's num_alloc_retries), ever."""

    def restart(self) -> None:
        """A new step begins with what there is now."""
        self.requested_peak, self.allocated_peak = self.requested, self.allocated
        self.reserved_peak = self.reserved


class CachingAllocator:
    """One process's allocator on one card.

    `total`: bytes of the card as CUDA sees it, of which `context` are taken before PyTorch takes any; None for a card
    on which there is always room. `segments` gets every segment that is taken (its size) or given back (negative).
    """

    def __init__(
        self,
        total: int | None = None,
        context: int = 0,
        settings: AllocatorSettings = DEFAULT,
    ) -> None:
        self.total, self.context, self.settings = total, context, settings
        self.use = Use()
        self.segments: list[int] = []
        self._pools: dict[PoolKey, Pool] = {}
        self._limit = settings.limit(total)
        self._count = 0

    # ------------------------------------------------------------------ what PyTorch calls
    def malloc(self, nbytes: int, stream: int = 0) -> Block:
        """A block for a tensor. Raises OutOfMemory."""
        size = self.settings.rounded(nbytes)
        pool = self._pool(size <= SMALL_REQUEST, stream)
        block = self._best_fit(pool, size) or self._segment(pool, size, nbytes)
        if self._is_split(block, size):
            block = self._split(block, size)
        block.taken, block.requested = True, nbytes
        use = self.use
        use.requested += nbytes
        use.allocated += block.size
        if use.requested > use.requested_peak:
            use.requested_peak = use.requested
        if use.allocated > use.allocated_peak:
            use.allocated_peak = use.allocated
        return block

    def free(self, block: Block) -> None:
        """free_block: the block joins its free neighbours, and stays with the process."""
        self.use.requested -= block.requested
        self.use.allocated -= block.size
        block.taken, block.requested = False, 0
        pool = block.pool
        for neighbour in (block.before, block.behind):
            if neighbour is not None and not neighbour.taken:
                pool.remove(neighbour)
                _merge(block, neighbour)
        block.born = pool.searches
        pool.insert(block)

    @property
    def free_bytes(self) -> int:
        """What torch.cuda.mem_get_info calls free: cached blocks are not."""
        if self.total is None:
            raise ValueError("how large this card is was never said")
        return max(0, self.total - self.context - self.use.reserved)

    # ------------------------------------------------------------------ what lies where
    def free_blocks(self) -> list[tuple[PoolKey, list[Block]]]:
        """The free blocks of every pool, in the order in which they are looked for."""
        return [(key, [pool.blocks[k] for k in pool.keys]) for key, pool in sorted(self._pools.items())]

    def rebuild(
        self,
        free: Iterable[tuple[PoolKey, Iterable[Placed]]],
        live: Iterable[Iterable[tuple[PoolKey, int, int, int, int]]],
    ) -> list[list[Block]]:
        """Put these free and live blocks in place of all that there is; the live ones are returned in their groups.

        A live block has the bytes that its tensor asked for behind its place. Peaks and what was counted stay.
        """
        self._pools.clear()
        segments: dict[int, list[Block]] = {}
        for key, places in free:
            for number, offset, size in places:
                block = self._placed(key, number, offset, size, segments)
                block.pool.insert(block)
        groups: list[list[Block]] = []
        for group in live:
            groups.append([])
            for key, number, offset, size, requested in group:
                block = self._placed(key, number, offset, size, segments)
                block.taken, block.requested = True, requested
                groups[-1].append(block)
        for blocks in segments.values():
            blocks.sort(key=lambda block: block.place)
            for before, behind in pairwise(blocks):
                before.behind, behind.before = behind, before
        self._count = max(segments, default=0)
        self._recount(segments.values())
        return groups

    def _placed(self, key: PoolKey, number: int, offset: int, size: int, segments: dict[int, list[Block]]) -> Block:
        pool = self._pool(*key)
        block = Block(pool, (number << OFFSETS) + offset, size, born=pool.searches)
        segments.setdefault(number, []).append(block)
        return block

    def _recount(self, segments: Iterable[list[Block]]) -> None:
        blocks = [block for segment in segments for block in segment]
        self.use.requested = sum(block.requested for block in blocks)
        self.use.allocated = sum(block.size for block in blocks if block.taken)
        self.use.reserved = sum(block.size for block in blocks)
        self.use.restart()

    # ------------------------------------------------------------------ finding a block
    def _pool(self, is_small: bool, stream: int) -> Pool:
        pool = self._pools.get((is_small, stream))
        if pool is None:
            pool = self._pools[is_small, stream] = Pool((is_small, stream), is_small)
        return pool

    def _best_fit(self, pool: Pool, size: int) -> Block | None:
        """get_free_block. A block above max_split_size is for requests above it, and for those of nearly its size."""
        pool.searches += 1
        at = bisect_left(pool.keys, (size, -1))
        if at == len(pool.keys):
            return None
        key, limit = pool.keys[at], self.settings.max_split_size
        if limit is not None:
            if size < limit <= key[0]:
                return None
            if size >= limit and key[0] >= size + self.settings.max_non_split_rounding:
                return None
        del pool.keys[at]
        return pool.blocks.pop(key)

    def _is_split(self, block: Block, size: int) -> bool:
        """should_split."""
        rest, limit = block.size - size, self.settings.max_split_size
        if block.pool.is_small:
            return rest >= BLOCK
        return rest > SMALL_REQUEST and (limit is None or size < limit)

    def _split(self, rest: Block, size: int) -> Block:
        """alloc_found_block: the request gets the lower end."""
        block = Block(rest.pool, rest.place, size, rest.before, rest)
        if block.before is not None:
            block.before.behind = block
        rest.before = block
        rest.place += size
        rest.size -= size
        rest.born = rest.pool.searches
        rest.pool.insert(rest)
        return block

    # ------------------------------------------------------------------ segments
    def _segment(self, pool: Pool, size: int, nbytes: int) -> Block:
        """A new segment, if need be after giving back free ones."""
        wanted = self._segment_size(size)
        if self.settings.garbage_collection and self._limit is not None:
            self._collect(self._limit)
        if self._has(wanted) or (self._release_some(pool, size) and self._has(wanted)):
            return self._new(pool, wanted)
        self._release(self._pools.values())
        self.use.retries += 1
        if not self._has(wanted):
            raise OutOfMemory(nbytes, self.free_bytes)
        return self._new(pool, wanted)

    def _segment_size(self, size: int) -> int:
        """get_allocation_size."""
        if size <= SMALL_REQUEST:
            return SMALL_SEGMENT
        if size < LARGE_REQUEST:
            return self.settings.large_segment_size
        return -(-size // ROUNDED_TO) * ROUNDED_TO

    def _has(self, wanted: int) -> bool:
        """The driver has so many bytes left, and the process may have them."""
        if self._limit is not None and self.use.reserved + wanted > self._limit:
            return False
        return self.total is None or wanted <= self.free_bytes

    def _new(self, pool: Pool, size: int) -> Block:
        use = self.use
        use.reserved += size
        use.reserved_peak = max(use.reserved_peak, use.reserved)
        self.segments.append(size)
        self._count += 1
        return Block(pool, self._count << OFFSETS, size, born=pool.searches)

    def _give_back(self, block: Block) -> None:
        """release_block."""
        block.pool.remove(block)
        self.use.reserved -= block.size
        self.segments.append(-block.size)

    def _release(self, pools: Iterable[Pool]) -> None:
        """release_cached_blocks: every segment that is wholly free, large ones first, in the order of the search."""
        for pool in sorted(pools, key=lambda pool: pool.is_small):
            for key in list(pool.keys):
                block = pool.blocks[key]
                if block.is_whole:
                    self._give_back(block)

    def _release_some(self, pool: Pool, size: int) -> bool:
        """release_available_cached_blocks: with a max_split_size, only as many blocks above it as are needed."""
        limit = self.settings.max_split_size
        if limit is None:
            return False
        wanted = max(size, limit)
        at = bisect_left(pool.keys, (wanted, -1))
        if at < len(pool.keys):
            self._give_back(pool.blocks[pool.keys[at]])
            return True
        released = 0
        for key in reversed(list(pool.keys)):
            if released >= wanted or key[0] < limit:
                break
            released += key[0]
            self._give_back(pool.blocks[key])
        return released >= wanted

    def _collect(self, limit: int) -> None:
        """garbage_collect_cached_blocks: above the threshold, free segments that lay longer than the average."""
        excess = self.use.reserved - int(self.settings.garbage_collection * limit)
        pools = [pool for pool in self._pools.values() if not pool.is_small]
        whole = [block for pool in pools for block in map(pool.blocks.get, pool.keys) if block and block.is_whole]
        while excess > 0 and whole:
            average = sum(block.pool.searches - block.born for block in whole) / len(whole)
            old = [block for block in whole if block.pool.searches - block.born >= average]
            for block in old:
                self._give_back(block)
                excess -= block.size
            whole = [block for block in whole if block not in old]


def _merge(block: Block, neighbour: Block) -> None:
    """try_merge_blocks: the block takes over its free neighbour."""
    if block.before is neighbour:
        block.place, block.before = neighbour.place, neighbour.before
        if block.before is not None:
            block.before.behind = block
    else:
        block.behind = neighbour.behind
        if block.behind is not None:
            block.behind.before = block
    block.size += neighbour.size
