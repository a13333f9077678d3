"""Expandable segments as cases that are worked out by hand from PyTorch's source; nothing here was measured."""

import pytest

from planner.cuda.allocator import Block, CachingAllocator, OutOfMemory
from planner.cuda.allocators import allocator
from planner.cuda.settings import AllocatorSettings
from planner.units import MIB


def expandable(total: int | None = None, more: str = "") -> CachingAllocator:
    return allocator(total, 0, AllocatorSettings.parse(f"expandable_segments:True{more}"))


def offset_of(block: Block) -> int:
    return block[1] & (1 << 48) - 1


def test_small_blocks_map_pages_of_2_mib_and_large_ones_of_20() -> None:
    cuda = expandable()
    cuda.malloc(512)
    cuda.malloc(MIB + 1)
    assert cuda.segments == [2 * MIB, 20 * MIB]


def test_a_segment_grows_by_what_its_free_end_lacks() -> None:
    cuda = expandable()
    assert [offset_of(cuda.malloc(30 * MIB)) for _ in range(3)] == [0, 30 * MIB, 60 * MIB]
    assert cuda.segments == [40 * MIB, 20 * MIB, 40 * MIB]  # 10 MiB were free at the end, then none


def test_half_a_page_and_more_is_mapped_whole() -> None:
    cuda = expandable()
    cuda.malloc(1001 * MIB)
    assert cuda.segments == [1020 * MIB]
    assert cuda.use.reserved == 1020 * MIB


def test_512_bytes_are_split_off_a_large_block_too() -> None:
    cuda = expandable()
    assert cuda.malloc(20 * MIB - 512)[2] == 20 * MIB - 512
    assert cuda.use.allocated == 20 * MIB - 512


def test_a_freed_block_is_used_again_before_the_segment_grows() -> None:
    cuda = expandable()
    low, _ = cuda.malloc(40 * MIB), cuda.malloc(20 * MIB)
    cuda.free(low)
    assert offset_of(cuda.malloc(40 * MIB)) == 0
    assert cuda.segments == [40 * MIB, 20 * MIB]


def test_what_can_grow_is_taken_last_however_small_it_is() -> None:
    """The 20 MiB at the end count with all the addresses behind them, and the 40 before them fit better."""
    cuda = expandable()
    low, _, high = cuda.malloc(40 * MIB), cuda.malloc(20 * MIB), cuda.malloc(20 * MIB)
    cuda.free(low)
    cuda.free(high)
    assert offset_of(cuda.malloc(20 * MIB)) == 0


def test_only_whole_pages_on_which_nothing_lies_are_given_back() -> None:
    cuda = expandable(total=200 * MIB)
    _, middle, _ = cuda.malloc(30 * MIB), cuda.malloc(50 * MIB), cuda.malloc(20 * MIB)
    cuda.free(middle)  # from 30 to 80 MiB: the pages from 40 to 80
    cuda.malloc(120 * MIB)
    assert cuda.segments == [40 * MIB, 40 * MIB, 20 * MIB, -40 * MIB, 120 * MIB]
    assert cuda.use.retries == 1
    assert cuda.use.reserved == 180 * MIB


def test_a_gap_is_mapped_again_before_the_end_grows() -> None:
    cuda = expandable(total=200 * MIB)
    _, middle, _ = cuda.malloc(40 * MIB), cuda.malloc(40 * MIB), cuda.malloc(20 * MIB)
    cuda.free(middle)
    assert offset_of(cuda.malloc(120 * MIB)) == 100 * MIB
    assert offset_of(cuda.malloc(20 * MIB)) == 40 * MIB
    assert cuda.segments[3:] == [-40 * MIB, 120 * MIB, 20 * MIB]


def test_memory_moves_from_one_stream_to_another_when_it_is_short() -> None:
    cuda = expandable(total=100 * MIB)
    cuda.free(cuda.malloc(80 * MIB))
    cuda.malloc(60 * MIB, stream=1)
    assert cuda.segments == [80 * MIB, -80 * MIB, 60 * MIB]


def test_no_cut_segment_is_in_the_way_of_a_large_request() -> None:
    """Where fixed segments run out of memory (see the law that is none): 24 freed, then 60, 11 and a small one."""
    sizes = (60 * MIB, 11 * MIB, MIB)
    fixed, growing = CachingAllocator(84 * MIB), expandable(total=84 * MIB)
    for cuda in (fixed, growing):
        cuda.free(cuda.malloc(24 * MIB))
    for size in sizes:
        growing.malloc(size)
    with pytest.raises(OutOfMemory):
        [fixed.malloc(size) for size in sizes]


def test_pages_that_no_page_can_be_found_for_are_out_of_memory() -> None:
    cuda = expandable(total=50 * MIB)
    cuda.malloc(30 * MIB)
    with pytest.raises(OutOfMemory) as raised:
        cuda.malloc(20 * MIB)  # 10 MiB are mapped, and 20 more would be needed
    assert (raised.value.asked, raised.value.free) == (20 * MIB, 10 * MIB)
    assert cuda.malloc(10 * MIB)


def test_the_limit_of_a_process_counts_the_request_and_not_the_pages() -> None:
    cuda = expandable(total=100 * MIB, more=",per_process_memory_fraction:0.5")
    cuda.malloc(40 * MIB)
    with pytest.raises(OutOfMemory):
        cuda.malloc(12 * MIB)
    cuda.malloc(10 * MIB)  # 50 MiB are allowed, and 60 mapped
    assert cuda.use.reserved == 60 * MIB


def test_the_page_of_large_blocks_can_be_set() -> None:
    cuda = expandable(more=",large_segment_size_mb:64")
    cuda.malloc(2 * MIB)
    assert cuda.segments == [64 * MIB]


def test_a_layout_is_restored_with_its_gaps() -> None:
    cuda = expandable(total=200 * MIB)
    live = [cuda.malloc(30 * MIB), cuda.malloc(50 * MIB), cuda.malloc(20 * MIB)]
    cuda.free(live.pop(1))
    live.append(cuda.malloc(120 * MIB))
    other = expandable(total=200 * MIB)
    (again,) = other.rebuild(cuda.layout([live]))
    assert other.use.reserved == cuda.use.reserved == 180 * MIB
    other.free(again.pop())
    cuda.free(live.pop())
    assert other.malloc(45 * MIB)[1] == cuda.malloc(45 * MIB)[1]
    assert other.layout([again]) == cuda.layout([live])
