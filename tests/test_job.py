import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

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
        with pytest.raises(ValidationError, match="larger than samples"):
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
        {"dtype": "int8"},
        {"no_such_option": 1},
    ],
)
def test_absurd_values_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Job.model_validate(field)


def test_a_job_is_a_value() -> None:
    assert Job(samples=4) == Job(samples=4)
    assert hash(Job(samples=4)) == hash(Job(samples=4))
    with pytest.raises(ValidationError):
        Job().samples = 3  # type: ignore[misc]
