"""What one weight of 1,024 x 1,024 in bf16 takes: 2 MiB (2M), its int8 or fp8 numbers 1 MiB, its int32 4 MiB."""

import pytest

from planner.cuda.build import CudaBuild
from planner.modelfree.passage import Passage, WorkPlace, passage
from planner.modelfree.rules import rules_of
from planner.modelfree.weights import Matrix
from planner.units import MIB

CARD, OLD_CARD = WorkPlace(device="gpu", build=CudaBuild()), WorkPlace(device="gpu", build=CudaBuild(sm=80))
CPU, REHEARSAL = WorkPlace(device="cpu"), WorkPlace(device="gpu", is_meta=True)


def matrix(scheme: str, rows: int = 1024, columns: int = 1024) -> Matrix:
    return Matrix(rows=rows, columns=columns, itemsize=2, scheme=rules_of(scheme).groups[0])


def single(scheme: str, place: WorkPlace) -> tuple[int, int]:
    """Most and what is left, without what is smaller than a hundredth of the weight."""
    (section,) = passage((matrix(scheme),), place).sections
    return round(section.peak / MIB), section.net


def test_a_kernel_holds_the_copy_its_result_in_the_weights_type_and_in_fp8() -> None:
    # 2 copy + 2 in bf16 + 1 in fp8; left: 1 MiB and a scale for each of 1,024 rows
    assert single("FP8_DYNAMIC", CARD) == (5, MIB + 2 * 1024)


def test_without_the_kernel_scaled_clamped_fp8_and_rounded_are_there_together() -> None:
    # 2 copy + 2 scaled + 2 clamped + 1 fp8 + 2 rounded
    for place in (CPU, OLD_CARD, REHEARSAL):
        assert single("FP8_DYNAMIC", place) == (9, MIB + 2 * 1024)


def test_int8_has_a_kernel_on_every_card() -> None:
    assert single("W8A8", OLD_CARD) == single("W8A8", CARD) == (5, MIB + 2 * 1024)


def test_packing_to_int32_takes_four_bytes_a_weight_twice() -> None:
    # 2 copy + 1 int8 + 4 int32 + 0.5 packed + 4 shifted; left: half a MiB and 8 scales a row
    assert single("W4A16", CARD) == (12, MIB // 2 + 2 * 8 * 1024)


def test_the_rehearsal_leaves_packing_out() -> None:
    # 2 copy + 0.5 packed, and scales
    assert (single("W4A16", REHEARSAL)[0], single("W4A16", CARD)[0]) == (3, 12)


def test_blocks_side_by_side_are_a_copy_while_they_are_observed() -> None:
    # 2 copy + 2 in blocks < 2 copy + 2 in bf16 + 1 in fp8
    assert single("FP8_BLOCK", CARD)[0] == 5


def test_rows_that_are_no_whole_blocks_are_padded_and_the_padding_stays() -> None:
    (section,) = passage((matrix("FP8_BLOCK", rows=1000),), CARD).sections
    # 1,024 rows of fp8 and 64 scales are left of 1,000 rows
    assert section.net == 1024 * 1024 + 2 * 64


def parts(found: Passage) -> list[dict[str, int]]:
    return [section.at_peak for section in found.sections]


def test_a_fused_set_holds_a_copy_of_each_weight_before_the_first_is_quantized() -> None:
    found = passage((matrix("NVFP4A16"),) * 3, CARD)
    assert len(found.sections) == 4
    assert [round(section.net / MIB, 1) for section in found.sections[:3]] == [2.1] * 3
    assert parts(found)[3]["weight copies"] == 3 * 2 * MIB
    # left of each: half a MiB, an fp8 scale for 16 weights, a global scale
    assert sum(section.net for section in found.sections) == 3 * (MIB // 2 + MIB // 16 + 4)


def test_a_peak_is_the_sum_of_its_parts_in_every_scheme_and_place() -> None:
    for scheme in ("FP8_BLOCK", "FP8_DYNAMIC", "W4A16", "W4A16_ASYM", "W8A16", "W8A8", "MXFP4A16", "MXFP8A16"):
        for place in (CARD, OLD_CARD, CPU, REHEARSAL):
            (section,) = passage((matrix(scheme),), place).sections
            assert section.peak == sum(section.at_peak.values())
            assert section.net == sum(nbytes for _, nbytes in section.actions)
            assert 0 < section.net <= section.peak


@pytest.mark.parametrize(
    ("scheme", "columns", "why"),
    [
        ("W4A16", 1000, "whole groups of 128"),
        ("NVFP4A16", 1000, "whole groups of 16"),
        ("FP8_BLOCK", 1000, "whole blocks"),
    ],
)
def test_columns_that_the_library_cannot_quantize_or_save_are_told(scheme: str, columns: int, why: str) -> None:
    assert why in (matrix(scheme, columns=columns).refusal() or "")
    assert matrix(scheme).refusal() is None
