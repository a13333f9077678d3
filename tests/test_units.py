import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import JobError
from planner.units import GB, GIB, MIB, format_bytes, human_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("24GiB", 24 * GIB),
        ("24 gib", 24 * GIB),
        ("80GB", 80 * GB),
        ("1.5GiB", 3 * GIB // 2),
        ("512MiB", 512 * MIB),
        ("2000000000", 2 * GB),
        (" 7 b ", 7),
        ("2TiB", 2048 * GIB),
    ],
)
def test_sizes_are_read_with_their_unit(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "80G", "80k", "GiB", "-1GiB", "1e9", "0", "0GiB", "24GiBs", "1,5GB", "nan", "24"])
def test_what_is_not_a_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(JobError, match=r"size|unit"):
        parse_bytes(text)


def test_gib_and_gb_are_different_sizes() -> None:
    assert parse_bytes("80GiB") - parse_bytes("80GB") == 80 * (2**30 - 10**9)


def test_a_size_is_written_with_three_significant_decimals_at_most() -> None:
    assert format_bytes(4_049_584_150) == "3.771 GiB"
    assert format_bytes(16_060_522_496) == "14.96 GiB"
    assert format_bytes(1_342_052_808_704) == "1,249.88 GiB"
    assert format_bytes(4_049_584_150, "GB") == "4.050 GB"


@given(st.integers(min_value=0, max_value=2**60))
def test_human_bytes_picks_a_unit_that_keeps_the_number_readable(count: int) -> None:
    number, unit = human_bytes(count).split()
    assert unit in ("B", "KiB", "MiB", "GiB", "TiB")
    assert float(number.replace(",", "")) >= 1 or count == 0


@given(st.integers(min_value=MIB, max_value=2**50))
def test_a_plain_number_of_bytes_is_read_exactly(count: int) -> None:
    assert parse_bytes(f"{count}") == parse_bytes(f"{count}B") == count
