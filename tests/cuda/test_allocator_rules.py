"""Each rule of planner/cuda/allocator.py and tuned.py as a case that is worked out by hand."""

import pytest

from planner.compress.devices import card
from planner.cuda.allocator import Block, CachingAllocator, OutOfMemory
from planner.cuda.allocators import allocator
from planner.cuda.settings import AllocatorSettings
from planner.cuda.tuned import TunedAllocator
from planner.units import KIB, MIB


def tuned(text: str, total: int | None = None) -> CachingAllocator:
    return allocator(total, 0, AllocatorSettings.parse(text))


def size_of(block: Block) -> int:
    return block[2]


def offset_of(block: Block) -> int:
    return block[1] & (1 << 48) - 1


@pytest.mark.parametrize(("nbytes", "size"), [(1, 512), (512, 512), (513, 1024), (MIB - 1, MIB)])
def test_requests_are_rounded_up_to_512_bytes(nbytes: int, size: int) -> None:
    assert size_of(CachingAllocator().malloc(nbytes)) == size


@pytest.mark.parametrize(
    ("nbytes", "segment"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (1001 * MIB, 1002 * MIB),
    ],
)
def test_the_request_decides_about_the_segment(nbytes: int, segment: int) -> None:
    cuda = CachingAllocator()
    cuda.malloc(nbytes)
    assert cuda.segments == [segment]


def test_small_requests_share_a_segment_from_its_low_end_on() -> None:
    cuda = CachingAllocator()
    blocks = [cuda.malloc(MIB // 2) for _ in range(5)]
    assert [offset_of(block) for block in blocks] == [0, MIB // 2, MIB, 3 * MIB // 2, 0]
    assert cuda.segments == [2 * MIB, 2 * MIB]


def test_of_a_large_block_a_rest_of_up_to_1_mib_is_handed_out_too() -> None:
    cuda = CachingAllocator()
    cuda.free(cuda.malloc(20 * MIB))
    assert size_of(cuda.malloc(19 * MIB)) == 20 * MIB
    assert cuda.use.allocated == 20 * MIB


def test_of_a_large_block_more_than_1_mib_is_split_off() -> None:
    cuda = CachingAllocator()
    cuda.free(cuda.malloc(20 * MIB))
    assert size_of(cuda.malloc(19 * MIB - 512)) == 19 * MIB - 512
    assert cuda.malloc(MIB + 512)[1] == (1 << 48) + 19 * MIB - 512
    assert cuda.segments == [20 * MIB]


def test_of_a_small_block_512_bytes_are_split_off() -> None:
    cuda = CachingAllocator()
    for size in (MIB, MIB - 512, 512):
        assert size_of(cuda.malloc(size)) == size
    assert cuda.segments == [2 * MIB]


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    cuda = CachingAllocator()
    large, middle = cuda.malloc(60 * MIB), cuda.malloc(40 * MIB)
    cuda.free(large)
    cuda.free(middle)
    assert cuda.malloc(30 * MIB)[1] == middle[1]


def test_of_equal_blocks_the_one_of_the_oldest_segment_is_taken() -> None:
    cuda = CachingAllocator()
    first, second = cuda.malloc(40 * MIB), cuda.malloc(40 * MIB)
    cuda.free(second)
    cuda.free(first)
    assert cuda.malloc(40 * MIB)[1] == first[1]


def test_freed_neighbours_become_one_block() -> None:
    cuda = CachingAllocator()
    cuda.free(cuda.malloc(60 * MIB))
    low, middle, high = (cuda.malloc(20 * MIB) for _ in range(3))
    for block in (low, high, middle):
        cuda.free(block)
    assert size_of(cuda.malloc(60 * MIB)) == 60 * MIB
    assert cuda.segments == [60 * MIB]


def test_what_lies_free_between_live_blocks_is_of_no_use_for_more() -> None:
    cuda = CachingAllocator()
    cuda.free(cuda.malloc(60 * MIB))
    low, _, high = (cuda.malloc(20 * MIB) for _ in range(3))
    cuda.free(low)
    cuda.free(high)
    cuda.malloc(40 * MIB)
    assert cuda.segments == [60 * MIB, 40 * MIB]


def test_small_and_large_blocks_and_streams_do_not_share_segments() -> None:
    cuda = CachingAllocator()
    cuda.free(cuda.malloc(40 * MIB))
    cuda.malloc(512)
    cuda.malloc(40 * MIB, stream=1)
    cuda.malloc(512, stream=1)
    assert cuda.segments == [40 * MIB, 2 * MIB, 40 * MIB, 2 * MIB]


def test_before_it_fails_it_gives_wholly_free_segments_back_large_ones_first() -> None:
    cuda = CachingAllocator(total=100 * MIB, context=10 * MIB)
    small, large, cut = cuda.malloc(512), cuda.malloc(30 * MIB), cuda.malloc(40 * MIB)
    cuda.free(cut)
    cuda.malloc(12 * MIB)  # 28 MiB of the 40 stay free, and stay
    cuda.free(small)
    cuda.free(large)
    cuda.malloc(50 * MIB)
    assert cuda.segments == [2 * MIB, 30 * MIB, 40 * MIB, -30 * MIB, -2 * MIB, 50 * MIB]
    assert cuda.use.retries == 1


def test_out_of_memory_says_what_was_asked_for_and_what_the_driver_has_left() -> None:
    cuda = CachingAllocator(total=100 * MIB, context=10 * MIB)
    cuda.malloc(60 * MIB)
    with pytest.raises(OutOfMemory) as raised:
        cuda.malloc(31 * MIB + 1)
    assert (raised.value.asked, raised.value.free) == (31 * MIB + 1, 30 * MIB)
    assert cuda.malloc(30 * MIB)


def test_what_is_free_is_the_card_less_the_context_less_what_is_reserved() -> None:
    cuda = CachingAllocator(total=100 * MIB, context=10 * MIB)
    cuda.free(cuda.malloc(30 * MIB))
    assert cuda.free_bytes == 60 * MIB


def test_of_a_card_whose_size_was_never_said_nobody_knows_what_is_free() -> None:
    with pytest.raises(ValueError, match="never said"):
        CachingAllocator().free_bytes  # noqa: B018  (to ask is what raises)


# ---------------------------------------------------------------------- settings
def test_a_block_from_max_split_size_on_is_not_used_for_smaller_requests() -> None:
    cuda = tuned("max_split_size_mb:64")
    cuda.free(cuda.malloc(64 * MIB))
    cuda.malloc(62 * MIB)
    assert cuda.segments == [64 * MIB, 62 * MIB]


def test_a_block_from_max_split_size_on_is_used_for_a_little_less_and_not_split() -> None:
    cuda = tuned("max_split_size_mb:64")
    cuda.free(cuda.malloc(100 * MIB))
    assert size_of(cuda.malloc(80 * MIB + 512)) == 100 * MIB
    cuda.free(cuda.malloc(200 * MIB))
    cuda.malloc(180 * MIB)
    assert cuda.segments == [100 * MIB, 200 * MIB, 180 * MIB]


def test_with_max_split_size_only_as_much_is_given_back_as_is_needed() -> None:
    cuda = tuned("max_split_size_mb:20", total=200 * MIB)
    blocks = [cuda.malloc(size * MIB) for size in (30, 60, 90)]
    for block in blocks:
        cuda.free(block)
    cuda.malloc(40 * MIB, stream=1)  # another stream's blocks are not its own: all of them go
    assert cuda.segments[3:] == [-30 * MIB, -60 * MIB, -90 * MIB, 40 * MIB]
    assert cuda.use.retries == 1


def test_with_max_split_size_the_smallest_that_is_large_enough_goes_first() -> None:
    cuda = tuned("max_split_size_mb:20", total=200 * MIB)
    blocks = [cuda.malloc(size * MIB) for size in (30, 60, 90)]
    for block in blocks:
        cuda.free(block)
    cuda.malloc(36 * MIB)  # the 60 are more than 20 too much
    assert cuda.segments[3:] == [-60 * MIB, 36 * MIB]
    assert cuda.use.retries == 0


def test_with_max_split_size_the_largest_go_where_none_is_large_enough() -> None:
    cuda = tuned("max_split_size_mb:20", total=200 * MIB)
    blocks = [cuda.malloc(size * MIB) for size in (30, 60, 90)]
    for block in blocks:
        cuda.free(block)
    cuda.malloc(120 * MIB)
    assert cuda.segments[3:] == [-90 * MIB, -60 * MIB, 120 * MIB]
    assert cuda.use.retries == 0


def test_a_fraction_of_the_card_is_a_limit() -> None:
    cuda = tuned("per_process_memory_fraction:0.5", total=200 * MIB)
    cuda.malloc(60 * MIB)
    with pytest.raises(OutOfMemory) as raised:
        cuda.malloc(42 * MIB)
    assert raised.value.free == 140 * MIB
    cuda.malloc(40 * MIB)


def test_garbage_collection_gives_back_what_lay_free_for_longer_than_the_average() -> None:
    cuda = tuned("garbage_collection_threshold:0.5,per_process_memory_fraction:0.9", total=1000 * MIB)
    old, new = cuda.malloc(200 * MIB), cuda.malloc(240 * MIB)
    cuda.free(old)
    cuda.malloc(20 * MIB, stream=1)  # time passes when a large block is looked for
    cuda.free(new)
    cuda.malloc(300 * MIB)  # 460 MiB are reserved, 10 more than half of 900
    assert cuda.segments[3:] == [-200 * MIB, 300 * MIB]


def test_without_a_fraction_nothing_is_collected() -> None:
    cuda = tuned("garbage_collection_threshold:0.5", total=1000 * MIB)
    cuda.free(cuda.malloc(600 * MIB))
    cuda.malloc(100 * MIB, stream=1)
    assert cuda.segments == [600 * MIB, 100 * MIB]


def test_the_plain_allocator_serves_the_settings_that_it_knows() -> None:
    assert type(tuned("")) is type(tuned("large_segment_size_mb:64")) is CachingAllocator
    assert type(tuned("max_split_size_mb:64")) is TunedAllocator


# ---------------------------------------------------------------------- its seat in the simulation
def test_a_device_frees_the_oldest_of_equal_tensors() -> None:
    device = card(1000 * MIB, 0)
    device.do([(7, 40 * MIB, 2)], [])
    device.do([(7, 30 * MIB, 1)], [])
    device.do([(7, 40 * MIB, -1)], [])
    assert [block[1] >> 48 for block in device.layout([7])[2][0]] == [2, 3]


def test_a_device_refuses_to_free_a_tensor_that_nobody_holds() -> None:
    device = card(1000 * MIB, 0)
    device.do([(7, 40 * MIB, 1)], [])
    with pytest.raises(ValueError, match="no tensor of 512 bytes"):
        device.do([(7, 512, -1)], [])
    with pytest.raises(ValueError, match="no 2 tensors of 41943040 bytes"):
        device.do([(7, 40 * MIB, -2)], [])


def test_of_tensors_of_several_sizes_the_oldest_of_one_size_go_together() -> None:
    device = card(1000 * MIB, 0)
    device.do([(7, 40 * MIB, 1), (7, 30 * MIB, 1), (7, 40 * MIB, 2), (7, 40 * MIB, -2)], [])
    (left,) = device.layout([7])[2]
    assert [block[0] for block in left] == [30 * MIB, 40 * MIB]
    assert left[1][1] == max(block[1] for block in left), "the youngest stays"


def test_a_device_that_was_restored_is_what_it_was_for_other_holdings() -> None:
    device = card(1000 * MIB, 0)
    device.do([(1, 40 * MIB, 2)], [])
    device.do([(2, 512 * KIB, 1)], [])
    before = device.layout([1, 2])
    device.do([(1, 40 * MIB, -2)], [])
    device.do([(2, 512 * KIB, -1)], [])
    assert device.layout([]) != before
    device.restore(before, [8, 9])
    assert device.layout([8, 9]) == before
    device.do([(8, 40 * MIB, -2)], [])
    assert device.free_bytes(0) == 1000 * MIB - 82 * MIB


def test_layouts_number_segments_by_age_whatever_was_given_back_before() -> None:
    young, old = CachingAllocator(total=90 * MIB), CachingAllocator(total=90 * MIB)
    old.free(old.malloc(40 * MIB))
    layouts = [cuda.layout([[cuda.malloc(60 * MIB), cuda.malloc(512)]]) for cuda in (young, old)]
    assert layouts[0] == layouts[1]
    assert old.use.retries == 1


# ---------------------------------------------------------------------- many at once
@pytest.mark.parametrize("nbytes", [700, MIB + 1, 3 * MIB, 16 * MIB, 25 * MIB])
def test_equal_tensors_lie_where_they_would_lie_one_by_one(nbytes: int) -> None:
    together, single = CachingAllocator(), CachingAllocator()
    for each in (together, single):
        holes = [each.malloc(size * MIB) for size in (100, 16, 3, 64, 16, 1, 30)]
        for hole in holes[::2]:
            each.free(hole)
    blocks = together.malloc_all(nbytes, 9)
    assert blocks == [single.malloc(nbytes) for _ in range(9)]
    assert together.layout([blocks]) == single.layout([blocks])
    assert together.use == single.use
    together.free_all(blocks[1:7])
    for block in blocks[1:7]:
        single.free(block)
    assert together.layout([]) == single.layout([])
    assert together.use == single.use
