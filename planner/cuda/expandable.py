"""`expandable_segments:True`: one segment a pool, of which only the pages that are needed are backed by memory.

Modelled from c10/cuda/CUDACachingAllocator.cpp (ExpandableSegment, get_free_block, find_expandable_block, map_block,
unmap_block, release_blocks) and **not measured**: the pretended driver of tests/cudameter lacks the calls.

| | here | else (allocator.py) |
|---|---|---|
| a pool | one range of addresses, an eighth larger than the card | many segments |
| taken from the driver | pages: 2 MiB for small blocks, 20 MiB (`large_segment_size_mb`) for large ones | segments |
| best fit | among free blocks, the one that could grow least | the smallest |
| split off | 512 bytes and more | from large blocks, more than 1 MiB |
| given back | each page on which nothing lies | segments on which nothing lies |

`segments` has the mapped and, negative, the unmapped bytes.
"""

from bisect import bisect_left

from planner.cuda.allocator import (
    OFFSETS,
    PLACE,
    PLACES,
    SMALL_REQUEST,
    SMALL_SEGMENT,
    Block,
    CachingAllocator,
    Layout,
    OutOfMemory,
    Pool,
)
from planner.cuda.settings import DEFAULT, AllocatorSettings

ENDLESS = 1 << OFFSETS - 1
"""Addresses of a segment on a card on which there is always room."""


class ExpandableAllocator(CachingAllocator):
    """One process's allocator on one card, with expandable segments."""

    def __init__(
        self,
        total: int | None = None,
        context: int = 0,
        settings: AllocatorSettings = DEFAULT,
    ) -> None:
        super().__init__(total, context, settings)
        self._limit = settings.limit(total)
        self.band = None  # its address space is as large as the card
        self._unmapped: dict[int, dict[int, int]] = {}
        """By pool: the ranges without memory, size by place. No two of them touch."""

    def malloc(self, nbytes: int, stream: int = 0) -> Block:
        size = self.settings.rounded(nbytes)
        pool = self._pool(2 * stream + (size <= SMALL_REQUEST))
        at = self._best_fit(pool, size)
        key = self._segment(pool, size, nbytes) if at is None else pool.keys.pop(at)
        return self._hand_out(pool, key, size, nbytes)

    def malloc_all(self, nbytes: int, count: int, stream: int = 0) -> list[Block]:
        return [self.malloc(nbytes, stream) for _ in range(count)]

    def rebuild(self, layout: Layout) -> list[list[Block]]:
        live = super().rebuild(layout)
        _, free, groups, _ = layout
        blocks = [(key & PLACE, key >> PLACES, number) for number, keys in free for key in keys]
        blocks += [(place, size, number) for group in groups for _, place, size, number in group]
        self._unmapped = {number: {} for *_, number in blocks}
        ends: dict[int, tuple[int, int]] = {}
        for place, size, number in sorted(blocks):
            segment = place >> OFFSETS
            end, _ = ends.get(segment, (segment << OFFSETS, number))
            if place > end:
                self._unmapped[number][end] = place - end
            ends[segment] = place + size, number
        for segment, (end, number) in ends.items():
            if rest := (segment << OFFSETS) + self._sizes[segment] - end:
                self._unmapped[number][end] = rest
        self.use.reserved = sum(size for _, size, _ in blocks)
        self.use.allocated = sum(size for group in groups for _, _, size, _ in group)
        self.use.restart()
        return live

    # ------------------------------------------------------------------ finding a block
    def _pool(self, number: int) -> Pool:
        if number not in self._pools:
            self._pools[number] = Pool(number, bool(number & 1), least_unsplit=0)  # should_split
            self._unmapped.setdefault(number, {})
        return self._pools[number]

    def _best_fit(self, pool: Pool, size: int) -> int | None:
        """get_free_block: which key. Of blocks that are large enough, one that can grow is as large as it can grow."""
        keys, limit = pool.keys, self.settings.max_split_size
        at = bisect_left(keys, size << PLACES)
        if at == len(keys):
            return None
        while at + 1 < len(keys) and self._grown(pool, keys[at + 1]) < self._grown(pool, keys[at]):
            at += 1
        if limit is not None:
            most = size + self.settings.max_non_split_rounding if size >= limit else limit
            if keys[at] >> PLACES >= most:
                return None
        return at

    def _grown(self, pool: Pool, key: int) -> int:
        """expandable_size: the free block and the addresses without memory behind it."""
        size = key >> PLACES
        return size + self._unmapped[pool.number].get((key & PLACE) + size, 0)

    # ------------------------------------------------------------------ pages
    def _segment(self, pool: Pool, size: int, nbytes: int) -> int:
        key = self._grow(pool, size)
        if key is None:
            self._release()
            self.use.retries += 1
            key = self._grow(pool, size)
        if key is None:
            raise OutOfMemory(nbytes, self.free_bytes)
        del pool.keys[bisect_left(pool.keys, key)]
        return key

    def _grow(self, pool: Pool, size: int) -> int | None:
        """try_allocate_expandable_block: a free block that is large enough now; None if memory is lacking.

        What was mapped before it turned out to be lacking stays mapped.
        """
        if self._limit is not None and self.use.reserved + self._segment_size(size) > self._limit:
            return None
        place = self._lowest(pool, size)
        found = pool.starts.get(place, 0)
        while found < size:
            key = self._map(pool, place + found, size - found)
            if key is None:
                self._forget_empty(pool)
                return None
            place, found = key & PLACE, key >> PLACES
        return found << PLACES | place

    def _lowest(self, pool: Pool, size: int) -> int:
        """find_expandable_block: the lowest place from which on so many bytes are free or without memory."""
        unmapped = self._unmapped[pool.number]
        for gap in sorted(unmapped):
            place = end = gap - pool.ends.get(gap, 0)
            while end - place < size and (more := pool.starts.get(end) or unmapped.get(end)):
                end += more
            if end - place >= size:
                return place
        page = self._page(pool)
        self._count += 1
        space = ENDLESS if self.total is None else -(-(self.total + self.total // 8) // page) * page
        self._sizes[self._count] = space
        unmapped[self._count << OFFSETS] = space
        return self._count << OFFSETS

    def _page(self, pool: Pool) -> int:
        return SMALL_SEGMENT if pool.is_small else self.settings.large_segment_size

    def _map(self, pool: Pool, place: int, wanted: int) -> int | None:
        """map_block: memory for whole pages from here on. The key of the free block that they are part of then."""
        unmapped, page, use = self._unmapped[pool.number], self._page(pool), self.use
        mapped = -(-min(wanted, unmapped[place]) // page) * page
        if not self._has(mapped):
            return None
        rest = unmapped.pop(place) - mapped
        if rest:
            unmapped[place + mapped] = rest
        use.reserved += mapped
        use.reserved_peak = max(use.reserved_peak, use.reserved)
        self.segments.append(mapped)
        return self._join(pool, place, mapped)

    def _release(self) -> None:
        """release_cached_blocks: the memory of every page that is wholly free, large blocks first."""
        for pool in sorted(self._pools.values(), key=lambda pool: (pool.is_small, pool.number)):
            for key in list(pool.keys):
                self._unmap(pool, key)
            self._forget_empty(pool)

    def _unmap(self, pool: Pool, key: int) -> None:
        """unmap_block: what lies before and behind the block's whole pages stays free."""
        place, size, page = key & PLACE, key >> PLACES, self._page(pool)
        segment = place >> OFFSETS << OFFSETS
        begin = segment + -(-(place - segment) // page) * page
        end = segment + (place + size - segment) // page * page
        if begin >= end:
            return
        pool.remove(key)
        for part, length in ((place, begin - place), (end, place + size - end)):
            if length:
                self._join(pool, part, length)
        self.use.reserved -= end - begin
        self.segments.append(begin - end)
        unmapped = self._unmapped[pool.number]
        behind = unmapped.pop(end, 0)
        before = next((gap for gap, length in unmapped.items() if gap + length == begin), begin)
        unmapped[before] = end + behind - before

    def _forget_empty(self, pool: Pool) -> None:
        """release_expandable_segment: addresses without any memory are given back."""
        unmapped = self._unmapped[pool.number]
        for place, size in list(unmapped.items()):
            if self._sizes[place >> OFFSETS] == size:
                del unmapped[place], self._sizes[place >> OFFSETS]
