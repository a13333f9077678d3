"""The caching allocator with PYTORCH_ALLOC_CONF: what differs from PyTorch's default settings.

| setting | effect, and where it stands in c10/cuda/CUDACachingAllocator.cpp |
|---|---|
| `max_split_size_mb` | blocks from that size on are not split, nor used for smaller requests (`get_free_block`) |
| | only as many of them are given back as are needed, before all else is (`release_available_cached_blocks`) |
| `roundup_power2_divisions` | fewer sizes of blocks (`get_round_size`) |
| `per_process_memory_fraction` | the driver is not asked for more (`alloc_block`) |
| `garbage_collection_threshold` | above it, segments that lay free for long go (`garbage_collect_cached_blocks`) |
"""

from bisect import bisect_left
from collections.abc import Iterable

from planner.cuda.allocator import OFFSETS, PLACE, PLACES, SMALL_REQUEST, Block, CachingAllocator, Layout, Pool
from planner.cuda.settings import DEFAULT, AllocatorSettings


class TunedAllocator(CachingAllocator):
    """One process's allocator on one card, with any settings but expandable segments."""

    def __init__(
        self,
        total: int | None = None,
        context: int = 0,
        settings: AllocatorSettings = DEFAULT,
    ) -> None:
        super().__init__(total, context, settings)
        limit = settings.limit(total)
        self._limit = limit
        self.band = None if limit else self.band
        self._threshold = int(settings.garbage_collection * limit) if limit and settings.garbage_collection else None
        """Reserved bytes from which on segments are collected. Never without a limit."""
        self.ages = self._threshold is not None
        self._searches = 0
        """How often a large block was looked for, on any stream: the clock of garbage collection."""
        self._freed: dict[int, int] = {}
        """When a segment became wholly free the last time, by its number."""

    def malloc(self, nbytes: int, stream: int = 0) -> Block:
        size = self.settings.rounded(nbytes)
        pool = self._pool(2 * stream + (size <= SMALL_REQUEST))
        self._searches += not pool.is_small
        at = self._best_fit(pool, size)
        key = self._segment(pool, size, nbytes) if at is None else pool.keys.pop(at)
        limit = self.settings.max_split_size
        is_split = pool.is_small or limit is None or size < limit
        return self._hand_out(pool, key, size if is_split else key >> PLACES, nbytes)

    def free(self, block: Block) -> int:
        key = super().free(block)
        if self._is_whole(key):
            self._freed[_number(key)] = self._searches
        return key

    def malloc_all(self, nbytes: int, count: int, stream: int = 0) -> list[Block]:
        return [self.malloc(nbytes, stream) for _ in range(count)]

    def free_all(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self.free(block)

    # ------------------------------------------------------------------ what lies where
    def layout(self, live: Iterable[Iterable[Block]]) -> Layout:
        sizes, free, groups, _ = super().layout(live)
        collectable = self._collectable() if self._threshold is not None else ()
        return sizes, free, groups, tuple(self._age(key) for _, key in collectable)

    def rebuild(self, layout: Layout) -> list[list[Block]]:
        live = super().rebuild(layout)
        collectable = self._collectable() if self._threshold is not None else ()
        self._freed = {_number(key): self._searches - age for (_, key), age in zip(collectable, layout[3], strict=True)}
        return live

    # ------------------------------------------------------------------ finding a block, and making room
    def _best_fit(self, pool: Pool, size: int) -> int | None:
        """get_free_block: which key. A block from max_split_size on is for requests from it on, of nearly its size."""
        at, limit = bisect_left(pool.keys, size << PLACES), self.settings.max_split_size
        if at == len(pool.keys):
            return None
        if limit is not None:
            found = pool.keys[at] >> PLACES
            most = size + self.settings.max_non_split_rounding if size >= limit else limit
            if found >= most:
                return None
        return at

    def _segment(self, pool: Pool, size: int, nbytes: int) -> int:
        if self._threshold is not None:
            self._collect(self._threshold)
        return super()._segment(pool, size, nbytes)

    def _has(self, wanted: int) -> bool:
        """The process may have so many bytes more, and the driver has them."""
        if self._limit is not None and self.use.reserved + wanted > self._limit:
            return False
        return super()._has(wanted)

    def _release_some(self, pool: Pool, size: int) -> bool:
        """release_available_cached_blocks: the smallest block that is large enough, or else the largest ones."""
        limit = self.settings.max_split_size
        if limit is None:
            return False
        wanted = max(size, limit)
        at = bisect_left(pool.keys, wanted << PLACES)
        if at < len(pool.keys):
            self._give_back(pool, pool.keys[at])
            return True
        released = 0
        for key in reversed(list(pool.keys)):
            if released >= wanted or key >> PLACES < limit:
                break
            released += key >> PLACES
            self._give_back(pool, key)
        return released >= wanted

    # ------------------------------------------------------------------ garbage collection
    def _collectable(self) -> list[tuple[Pool, int]]:
        """Large segments that are wholly free, in the order of the search."""
        pools = (pool for _, pool in sorted(self._pools.items()) if not pool.is_small)
        return [(pool, key) for pool in pools for key in pool.keys if self._is_whole(key)]

    def _age(self, key: int) -> int:
        """How often a large block was looked for since this one became free."""
        return self._searches - self._freed[_number(key)]

    def _collect(self, threshold: int) -> None:
        """garbage_collect_cached_blocks: of the free segments those not younger than the average, repeatedly."""
        excess, left = self.use.reserved - threshold, self._collectable()
        while excess > 0 and left:
            average = sum(self._age(key) for _, key in left) / len(left)
            old = [(pool, key) for pool, key in left if self._age(key) >= average]
            left = [(pool, key) for pool, key in left if self._age(key) < average]
            for pool, key in old:
                self._give_back(pool, key)
                excess -= key >> PLACES


def _number(key: int) -> int:
    """Of the segment in which a free block lies."""
    return (key & PLACE) >> OFFSETS
