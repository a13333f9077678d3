"""Which pipelines a job runs: as asked, or as each modifier needs."""

from types import SimpleNamespace
from typing import Any

import pytest

from planner.compress.inferred import pipeline_notes, pipeline_runs
from planner.job import Job
from planner.notes import Note


def program(*needs_data: bool) -> Any:
    """A job whose modifiers need calibration data, or not."""
    return SimpleNamespace(
        runs=tuple(
            SimpleNamespace(
                units=(),
                spec=SimpleNamespace(
                    requires_calibration_data=needs,
                    uncounted_in_basic=tuple,
                    keeps_arguments=False,
                    without_data=lambda: [Note(kind="job", text="no data")],
                ),
            )
            for needs in needs_data
        )
    )


def test_the_independent_pipeline_runs_each_modifier_alone_in_the_pipeline_that_it_needs() -> None:
    both = program(True, False)
    runs = pipeline_runs(both, Job())
    assert [(run.pipeline, run.runs) for run in runs] == [
        ("sequential", both.runs[:1]),
        ("datafree", both.runs[1:]),
    ]


@pytest.mark.parametrize("pipeline", ["sequential", "basic", "datafree"])
def test_a_pipeline_that_is_named_serves_all_modifiers_at_once(pipeline: Any) -> None:
    both = program(True, False)
    (run,) = pipeline_runs(both, Job(pipeline=pipeline))
    assert (run.pipeline, run.runs) == (pipeline, both.runs)


@pytest.mark.parametrize(
    ("needs", "pipeline", "count"),
    [
        ((True,), "independent", 0),
        ((True, False), "independent", 1),
        ((True, False), "sequential", 0),
        ((False,), "basic", 1),
        ((False,), "datafree", 0),
        ((True, False), "datafree", 1),
    ],
)
def test_a_choice_that_changes_what_the_figures_mean_has_a_note(
    needs: tuple[bool, ...], pipeline: Any, count: int
) -> None:
    notes = list(pipeline_notes(program(*needs), Job(pipeline=pipeline)))
    assert [note.kind for note in notes] == ["job"] * count
