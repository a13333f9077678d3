"""PYTORCH_ALLOC_CONF is read as torch 2.14.1 reads it, which was tried with every text below."""

import pytest

from planner.cuda.allocators import allocator
from planner.cuda.notes import notes_on_settings
from planner.cuda.settings import DEFAULT, AllocatorSettings
from planner.errors import JobError, PlannerError, UnsupportedError
from planner.job import Job
from planner.units import MIB


def test_an_empty_text_is_pytorch_s_defaults() -> None:
    assert AllocatorSettings.parse("") == AllocatorSettings.parse(" ") == DEFAULT


def test_every_setting_that_decides_about_memory_is_read() -> None:
    text = (
        "max_split_size_mb:128, max_non_split_rounding_mb : 64,large_segment_size_mb:40,"
        "garbage_collection_threshold:.8,per_process_memory_fraction:0.5,roundup_power2_divisions:[256:1,512:2,1024:4,>:8],expandable_segments:True,"
    )
    assert AllocatorSettings.parse(text) == AllocatorSettings(
        max_split_size=128 * MIB,
        max_non_split_rounding=64 * MIB,
        large_segment_size=40 * MIB,
        garbage_collection=0.8,
        memory_fraction=0.5,
        roundup_power2_divisions=(1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 8, 8, 8, 8),
        expandable_segments=True,
    )


@pytest.mark.parametrize(
    "text",
    [
        "max_split_size_mb:20",
        "max_split_size_mb:128,",
        "max_non_split_rounding_mb:20",
        "large_segment_size_mb:11",
        "large_segment_size_mb:12,max_split_size_mb:15",
        "large_segment_size_mb:64,max_non_split_rounding_mb:64",
        "garbage_collection_threshold:0.5",
        "roundup_power2_divisions:1",
        "roundup_power2_divisions:[]",
        "roundup_power2_divisions:[256:0,>:0]",
        "roundup_power2_divisions:[256:1,]",
        "roundup_power2_divisions:[131072:1]",
        "expandable_segments:False",
        "backend:native",
        "per_process_memory_fraction:0",
        "per_process_memory_fraction:1",
        "pinned_use_background_threads:True",
        "max_split_size_mb:64,max_split_size_mb:128",
    ],
)
def test_what_pytorch_takes_is_taken(text: str) -> None:
    AllocatorSettings.parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_split_size_mb:19", "max_split_size_mb:19: PyTorch wants at least the large segment's size; write 20"),
        ("large_segment_size_mb:64,max_split_size_mb:32", "write 64 or more"),
        ("max_split_size_mb:32,large_segment_size_mb:64", "write 64 or more"),
        ("large_segment_size_mb:64,max_non_split_rounding_mb:32", "write 64 or more"),
        ("max_non_split_rounding_mb:19", "write 20 or more"),
        ("large_segment_size_mb:10", "write 11 or more"),
        ("max_split_size_mb:abc", "not a whole number"),
        ("max_split_size_mb:[128]", "not a whole number"),
        ("garbage_collection_threshold:0", "a share between 0 and 1"),
        ("garbage_collection_threshold:1.0", "a share between 0 and 1"),
        ("garbage_collection_threshold:80%", "like 0.8"),
        ("per_process_memory_fraction:1.5", "at most 1"),
        ("per_process_memory_fraction:-0.1", "not a number"),
        ("roundup_power2_divisions:3", "powers of two as divisions, not 3"),
        ("roundup_power2_divisions:0", "powers of two as divisions, not 0"),
        ("roundup_power2_divisions:[256:1,512:3]", "powers of two as divisions, not 3"),
        ("roundup_power2_divisions:[255:1]", "powers of two as sizes, not 255"),
        ("roundup_power2_divisions:[0:8]", "powers of two as sizes, not 0"),
        ("roundup_power2_divisions:[256]", "write SIZE:DIVISIONS"),
        ("roundup_power2_divisions:[256:1", "is not KEY:VALUE"),
        ("roundup_power2_divisions:[[256:1]]", "is not KEY:VALUE"),
        ("expandable_segments:true", "write True or False"),
        ("max_split_size_mb", "is not KEY:VALUE"),
        ("max_split_size_mb:", "is not KEY:VALUE"),
        ("max_split_size_mb::128", "is not KEY:VALUE"),
        ("max_split_size_mb=128", "is not KEY:VALUE"),
        (",max_split_size_mb:128", "is not KEY:VALUE"),
        ("max_split_size_mb:128,,", "is not KEY:VALUE"),
        ("max_split_size:128", "no setting 'max_split_size'; did you mean max_split_size_mb?"),
        ("foo:1", "no setting 'foo'; it has large_segment_size_mb, max_split_size_mb"),
    ],
)
def test_what_pytorch_refuses_is_refused_with_a_way_out(text: str, says: str) -> None:
    with pytest.raises(JobError) as raised:
        AllocatorSettings.parse(text)
    assert says in str(raised.value)
    assert str(raised.value).startswith("PYTORCH_ALLOC_CONF: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["max_split_size_mb:21.5", "max_split_size_mb:-1"])
def test_numbers_that_pytorch_misreads_are_refused(text: str) -> None:
    with pytest.raises(JobError, match="not a whole number"):
        AllocatorSettings.parse(text)


def test_another_allocator_is_not_modelled() -> None:
    with pytest.raises(UnsupportedError, match="PyTorch's own allocator; leave backend out"):
        AllocatorSettings.parse("backend:cudaMallocAsync")


SIZES = (100_000, 1_100_000, 2_200_000, 3_145_733, 9_000_000, 17_000_000, 37_000_000, 600_000_001, 5_000_000_001)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("4", (114688, 1310720, 2621440, 3670016, 10485760, 20971520, 41943040, 671088640, 5368709120)),
        ("64", (100352, 1114112, 2228224, 3178496, 9043968, 17039360, 37748736, 603979776, 5033164800)),
        ("[4:8]", (106496, 1179648, 2359296, 3407872, 9000448, 17000448, 37748736, 600000512, 5000000512)),
        ("[>:8]", (100352, 1100288, 2359296, 3407872, 9437184, 18874368, 37748736, 603979776, 5368709120)),
        ("[2:4,>:8,16:2]", (114688, 1310720, 2621440, 3670016, 9437184, 25165824, 37748736, 603979776, 5368709120)),
        ("[4:8,2:4]", (106496, 1179648, 2621440, 3670016, 9000448, 17000448, 37748736, 600000512, 5000000512)),
        ("[1:0,>:2]", (100352, 1100288, 3145728, 4194304, 12582912, 25165824, 50331648, 805306368, 6442450944)),
    ],
)
def test_blocks_are_as_large_as_torch_2_14_1_makes_them(text: str, blocks: tuple[int, ...]) -> None:
    """torch.cuda.memory_allocated after one request of each size."""
    settings = AllocatorSettings.parse(f"roundup_power2_divisions:{text}")
    assert tuple(allocator(settings=settings).malloc(size)[2] for size in SIZES) == blocks


def test_a_request_that_is_a_power_of_two_is_not_rounded() -> None:
    settings = AllocatorSettings.parse("roundup_power2_divisions:4")
    assert settings.rounded(2**21) == 2**21
    assert settings.rounded(1200 * 1024) == 1280 * 1024


def test_a_job_has_a_text_that_pytorch_takes() -> None:
    assert Job(alloc_conf="max_split_size_mb:128").allocator_settings.max_split_size == 128 * MIB
    with pytest.raises(PlannerError, match="did you mean max_split_size_mb"):
        Job(alloc_conf="max_split_size:128")


def test_a_note_says_that_collection_needs_a_fraction() -> None:
    (note,) = notes_on_settings(AllocatorSettings.parse("garbage_collection_threshold:0.5"))
    assert "per_process_memory_fraction" in note.text
    both = "garbage_collection_threshold:0.5,per_process_memory_fraction:0.9"
    assert notes_on_settings(AllocatorSettings.parse(both)) == ()


def test_a_note_says_that_expandable_segments_were_not_measured() -> None:
    (note,) = notes_on_settings(AllocatorSettings.parse("expandable_segments:True"))
    assert "not measured" in note.text
