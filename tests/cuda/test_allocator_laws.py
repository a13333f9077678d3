"""What must hold of the caching allocators for any stream of requests, with any settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from planner.cuda.allocator import OFFSETS, PLACE, PLACES, Block, CachingAllocator, OutOfMemory
from planner.cuda.allocators import allocator
from planner.cuda.expandable import ExpandableAllocator
from planner.cuda.settings import AllocatorSettings
from planner.units import MIB

SETTINGS = (
    "",
    "max_split_size_mb:20",
    "max_split_size_mb:64,max_non_split_rounding_mb:30",
    "roundup_power2_divisions:4",
    "large_segment_size_mb:12",
    "garbage_collection_threshold:0.3,per_process_memory_fraction:0.9",
    "expandable_segments:True",
)
CARD = 600 * MIB
Request = tuple[int, int]
"""(bytes, stream); bytes below 1: free the block of this age instead."""


def sizes() -> st.SearchStrategy[int]:
    """Around the borders: blocks of 512 bytes, small and large pools, segments that fit and that are cut."""
    border = st.sampled_from([512, MIB, 2 * MIB, 10 * MIB, 20 * MIB, 64 * MIB, 150 * MIB])
    near = st.builds(lambda at, off: max(1, at + off), border, st.integers(-2000, 2000))
    return near | st.integers(1, 200 * MIB)


def requests() -> st.SearchStrategy[list[Request]]:
    frees = st.builds(lambda age: (-age, 0), st.integers(0, 12))
    return st.lists(st.tuples(sizes(), st.integers(0, 1)) | frees, max_size=60)


def texts() -> st.SearchStrategy[str]:
    return st.sampled_from(SETTINGS)


@dataclass
class Run:
    """Requests to one allocator, one after the other."""

    allocator: CachingAllocator
    live: list[Block] = field(default_factory=list)

    def ask(self, request: Request) -> bool:
        """False: out of memory. A block that is not there is not freed."""
        nbytes, stream = request
        if nbytes > 0:
            try:
                self.live.append(self.allocator.malloc(nbytes, stream))
            except OutOfMemory:
                return False
        elif self.live:
            self.allocator.free(self.live.pop(-1 - (-nbytes % len(self.live))))
        return True

    def free_blocks(self) -> list[tuple[int, int]]:
        """(place, size) of all."""
        _, free, _, _ = self.allocator.layout([])
        return [(key & PLACE, key >> PLACES) for _, keys in free for key in keys]


def started(text: str, total: int | None = CARD) -> Run:
    return Run(allocator(total, 10 * MIB, AllocatorSettings.parse(text)))


def overlaps(blocks: Sequence[tuple[int, int]]) -> bool:
    """Of (place, size) pairs."""
    ordered = sorted(blocks)
    return any(a + size > b for (a, size), (b, _) in pairwise(ordered))


@given(texts(), requests())
def test_no_two_blocks_overlap_and_every_reserved_byte_belongs_to_exactly_one(text: str, stream: list[Request]) -> None:
    run = started(text)
    for request in stream:
        run.ask(request)
        use = run.allocator.use
        live = [(place, size) for _, place, size, _ in run.live]
        sizes_, free, groups, _ = run.allocator.layout([run.live])
        blocks = [(key & PLACE, key >> PLACES) for _, keys in free for key in keys]
        blocks += [(place, size) for group in groups for _, place, size, _ in group]
        assert not overlaps(blocks)
        assert sum(size for _, size in blocks) == use.reserved
        assert sum(size for _, size in live) == use.allocated <= use.reserved
        assert all(nbytes <= size for nbytes, _, size, _ in run.live)
        if not isinstance(run.allocator, ExpandableAllocator):
            for number, segment in enumerate(sizes_, 1):
                assert sum(size for place, size in blocks if place >> OFFSETS == number) == segment


@given(texts(), requests())
def test_what_is_reserved_is_what_was_taken_less_what_was_given_back(text: str, stream: list[Request]) -> None:
    run = started(text)
    for request in stream:
        run.ask(request)
        use = run.allocator.use
        assert use.reserved == sum(run.allocator.segments)
        assert use.reserved_peak >= use.reserved
        assert use.allocated_peak >= use.allocated
        assert run.allocator.free_bytes == CARD - 10 * MIB - use.reserved >= 0


@given(texts(), requests())
def test_no_two_free_blocks_touch(text: str, stream: list[Request]) -> None:
    run = started(text)
    for request in stream:
        run.ask(request)
    blocks = run.free_blocks()
    assert not {place + size for place, size in blocks} & {place for place, _ in blocks}


@given(texts(), requests())
def test_the_same_requests_take_the_same_segments(text: str, stream: list[Request]) -> None:
    first, second = started(text), started(text)
    for request in stream:
        assert first.ask(request) == second.ask(request)
    assert first.allocator.segments == second.allocator.segments
    assert first.live == second.live


@given(texts(), requests())
def test_all_that_is_freed_can_be_had_again_without_asking_the_driver(text: str, stream: list[Request]) -> None:
    run = started(text, total=None)
    for request in stream:
        run.ask(request)
    while run.live:
        run.ask((0, 0))
    assert run.allocator.use.allocated == 0
    if not isinstance(run.allocator, ExpandableAllocator):
        sizes_, free, _, _ = run.allocator.layout([])
        assert sorted(key >> PLACES for _, keys in free for key in keys) == sorted(sizes_)


@given(texts(), requests(), requests())
def test_a_layout_that_was_restored_goes_on_as_the_one_it_was_taken_of(
    text: str, before: list[Request], after: list[Request]
) -> None:
    run, other = started(text), started(text)
    for request in before:
        run.ask(request)
    layout = run.allocator.layout([run.live])
    (other.live,) = other.allocator.rebuild(layout)
    assert other.allocator.layout([other.live]) == layout
    for request in after:
        seen, seen_other = len(run.allocator.segments), len(other.allocator.segments)
        assert run.ask(request) == other.ask(request)
        assert run.allocator.segments[seen:] == other.allocator.segments[seen_other:]
        assert run.allocator.layout([run.live]) == other.allocator.layout([other.live])
        assert run.allocator.use.reserved == other.allocator.use.reserved
        assert run.allocator.use.allocated == other.allocator.use.allocated


def gets_through(stream: Sequence[Request], total: int, text: str = "") -> bool:
    """No request of the stream fails on a card of this size."""
    run = started(text, total)
    return all(run.ask(request) for request in stream)


@given(requests(), st.integers(20 * MIB, CARD))
def test_where_nothing_was_given_back_more_memory_changes_nothing(stream: list[Request], more: int) -> None:
    run = started("")
    if all(run.ask(request) for request in stream) and run.allocator.use.retries == 0:
        larger = started("", CARD + more)
        assert all(larger.ask(request) for request in stream)
        assert larger.allocator.segments == run.allocator.segments
