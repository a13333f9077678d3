"""The script that says whether a planned figure has changed."""

from tests.measured.figures import HEAD, Line, changes, read

BEFORE: list[Line] = [
    ("job", "GPTQModifier 2 compress", "300", "310", "40", "40"),
    ("job", "save", "0", "-", "20", "-"),
]


def test_a_print_reads_back_as_the_lines_that_it_was_made_of() -> None:
    assert read("\n".join([HEAD, *("\t".join(line) for line in BEFORE)]) + "\n") == BEFORE


def test_equal_plans_show_no_change_whatever_was_measured() -> None:
    assert list(changes(BEFORE, [(*line[:3], "7", line[4], "8") for line in BEFORE])) == []


def test_a_planned_figure_that_changed_by_one_byte_is_named() -> None:
    after: list[Line] = [("job", "GPTQModifier 2 compress", "300", "310", "41", "40"), BEFORE[1]]
    assert list(changes(BEFORE, after)) == ["job\tGPTQModifier 2 compress\tCPU\tbefore 40\tnow 41"]


def test_a_step_that_came_or_went_is_named() -> None:
    gone = list(changes(BEFORE, BEFORE[:1]))
    assert gone == [f"job\tsave\t{device}\tbefore {was}\tnow no such step" for device, was in (("GPU", 0), ("CPU", 20))]
    assert len(list(changes(BEFORE[:1], BEFORE))) == 2
