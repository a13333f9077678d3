import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from planner.compress.card import card_notes
from planner.errors import JobError
from planner.hardware import find_gpu
from planner.job import MAX_LAYERS, MAX_SAMPLES, MAX_TOKENS, Job
from planner.units import GIB


def test_the_defaults_are_those_of_oneshot() -> None:
    job = Job()
    assert (job.samples, job.batch_size, job.pipeline) == (512, 1, "independent")
    assert (job.propagate_error, job.prefetch, job.calibrate_all_experts) == (True, False, True)
    assert (job.offload_device, job.sequential_targets, job.targets_per_subgraph) == ("cpu", None, 1)
    assert job.gpu_memory_bytes == 80 * GIB


@given(samples=st.integers(1, 5000), batch_size=st.integers(1, 5000))
def test_batches_hold_every_sample_and_only_the_last_is_smaller(samples: int, batch_size: int) -> None:
    if samples < batch_size:
        with pytest.raises(JobError, match="larger than samples"):
            Job(samples=samples, batch_size=batch_size)
        return
    job = Job(samples=samples, batch_size=batch_size)
    assert (job.batches - 1) * batch_size + job.last_batch_size == samples
    assert 1 <= job.last_batch_size <= batch_size


@pytest.mark.parametrize(
    "field",
    [
        {"samples": 0},
        {"samples": -1},
        {"samples": MAX_SAMPLES + 1},
        {"seq_len": 0},
        {"seq_len": MAX_TOKENS + 1},
        {"batch_size": 0},
        {"layers": 0},
        {"layers": 10**12},
        {"vision_layers": MAX_LAYERS + 1},
        {"targets_per_subgraph": 0},
        {"gpu_memory_bytes": 0},
        {"images": -1},
        {"image_size": (0, 448)},
        {"image_size": (448, 10**6)},
        {"pipeline": "parallel"},
        {"offload_device": "disk"},
        {"offload_device": "gpu:1", "ranks": 2},
        {"dtype": "int8"},
        {"no_such_option": 1},
    ],
)
def test_absurd_values_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Job.model_validate(field)


def test_a_call_says_in_one_line_which_field_is_wrong_and_its_range() -> None:
    with pytest.raises(JobError) as told:
        Job(samples=-1)
    assert str(told.value) == "samples -1: should be greater than or equal to 1, at most 10,000,000"
    with pytest.raises(JobError, match=r"^no_such_option 1: Extra inputs are not permitted$"):
        Job(no_such_option=1)  # type: ignore[call-arg]  # mypy refuses it too


def test_a_job_is_a_value() -> None:
    assert Job(samples=4) == Job(samples=4)
    assert hash(Job(samples=4)) == hash(Job(samples=4))
    with pytest.raises(ValidationError):
        Job().samples = 3


def test_jobs_whose_layers_are_trained_otherwise_do_not_share_their_saved_files() -> None:
    """Hooks in layers that were trained before, or are no targets, have other matrices."""
    keys = {
        Job(**fields).decides_saved
        for fields in ({}, {"pipeline": "sequential"}, {"sequential_targets": ("Attention", "MLP")})
    }
    assert len(keys) == 3
    assert Job(samples=4).decides_saved == Job(samples=8).decides_saved


# ---------------------------------------------------------------------- the card
def test_a_named_card_brings_its_memory_and_its_capability() -> None:
    job = Job(gpu="l40s")
    assert (job.gpu, job.gpu_memory_bytes, job.sm, job.capability) == ("L40S", find_gpu("L40S").memory_bytes, 89, 89)


def test_a_card_that_is_a_size_has_no_name() -> None:
    assert Job(gpu="24GiB") == Job(gpu_memory_bytes=24 * GIB)
    assert (Job(gpu="24GiB").gpu, Job(gpu="24GiB").sm, Job(gpu="24GiB").capability) == (None, None, 90)


def test_figures_that_are_given_are_not_those_of_the_table() -> None:
    """A saved plan, and a card that was measured, stay as they were."""
    job = Job(gpu="L40S", gpu_memory_bytes=40 * GIB, sm=90)
    assert (job.gpu, job.gpu_memory_bytes, job.sm) == ("L40S", 40 * GIB, 90)
    unknown = Job(gpu="Abacus 9000", gpu_memory_bytes=40 * GIB)
    assert (unknown.gpu, unknown.gpu_memory_bytes) == ("Abacus 9000", 40 * GIB)


def test_a_card_that_nobody_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(JobError, match="unknown GPU 'l40x'; the nearest names are L40"):
        Job(gpu="l40x")


def test_a_job_with_a_card_is_read_back_as_it_was_written() -> None:
    for job in (Job(gpu="rtx4090"), Job(gpu="24GB"), Job()):
        assert Job.model_validate_json(job.model_dump_json()) == job


def test_a_size_without_a_name_is_noted_and_the_default_is_not() -> None:
    assert [note.kind for note in card_notes(Job(gpu_memory_bytes=24 * GIB))] == ["card", "card"]
    assert [note.kind for note in card_notes(Job(gpu_memory_bytes=24 * GIB, sm=86))] == ["card"]
    (note,) = card_notes(Job(gpu_memory_bytes=23 * GIB))
    assert "planned as for 9.0: --sm says another" in note.text
    assert not list(card_notes(Job())) + list(card_notes(Job(gpu="l40s")))
