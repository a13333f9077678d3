"""A job as the library's arguments: one table, and its twin where planner cannot be imported."""

from planner.job import Job
from planner.job_arguments import ONESHOT_ARGUMENTS, oneshot_arguments
from planner.models import inputs
from planner.rehearse.child import oneshot
from planner.rehearse.child.steps import ARGUMENTS
from planner.upstream import ONESHOT_DEFAULTS


def test_a_rehearsals_child_reads_the_fields_that_a_job_is_written_as() -> None:
    assert dict(ONESHOT_ARGUMENTS) == ARGUMENTS


def test_every_argument_that_a_plan_has_a_default_of_is_written_and_no_other_but_the_length() -> None:
    assert set(ONESHOT_ARGUMENTS.values()) ^ ONESHOT_DEFAULTS.keys() == {"max_seq_length"}


def test_devices_are_pytorchs_and_targets_that_were_not_said_are_the_librarys_own() -> None:
    plain = oneshot_arguments(Job(offload_device="gpu:1"))
    assert plain["sequential_offload_device"] == "cuda:1"
    assert "sequential_targets" not in plain
    assert oneshot_arguments(Job(sequential_targets=("LlamaMLP",)))["sequential_targets"] == ["LlamaMLP"]


def test_a_rehearsals_child_concatenates_the_fields_that_a_batch_does() -> None:
    assert oneshot.CONCATENATED == inputs.CONCATENATED
