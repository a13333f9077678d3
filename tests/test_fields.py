"""One table of a job's fields: the record, the command line, the meter and the summary say the same."""

from typing import Any

import pytest

from planner.fields import JOB_FIELDS
from planner.job import Job
from planner.reports.summary import job_line
from planner.units import GB, GIB
from tests.measured.cases import meter_arguments

# A value of each field that is not its default.
OTHERS: dict[str, Any] = {
    "samples": 16,
    "seq_len": 128,
    "batch_size": 2,
    "images": 1,
    "image_size": (644, 336),
    "audios": 2,
    "audio_seconds": 12,
    "loss_mask": True,
    "pipeline": "sequential",
    "sequential_targets": ("A", "B"),
    "targets_per_subgraph": 2,
    "offload_device": "gpu",
    "ranks": 2,
    "propagate_error": False,
    "prefetch": True,
    "progress_bars": False,
    "calibrate_all_experts": False,
    "linearized": True,
    "dtype": "float16",
    "weights": "disk",
    "ram_for_weights_bytes": 3 * GIB,
    "layers": 3,
    "vision_layers": 4,
    "gpu": "L40S",
    "gpu_memory_bytes": 24 * GIB,
    "sm": 89,
    "alloc_conf": "max_split_size_mb:128",
    "cuda_context_bytes": 400_000_000,
}
NAMES = [field.name for field in JOB_FIELDS]


def test_the_table_has_the_record_s_fields_and_no_other() -> None:
    assert sorted(NAMES) == sorted(Job.model_fields) == sorted(OTHERS)


@pytest.mark.parametrize("field", JOB_FIELDS, ids=NAMES)
def test_a_field_has_the_record_s_default(field: Any) -> None:
    assert field.default == Job.model_fields[field.name].default
    assert OTHERS[field.name] != field.default


@pytest.mark.parametrize("field", JOB_FIELDS, ids=NAMES)
def test_what_is_written_is_read_back(field: Any) -> None:
    for value in (field.default, OTHERS[field.name]):
        assert field.parse(field.spelling.write(value)) == value


def test_bytes_that_are_no_whole_gib_are_written_to_the_byte() -> None:
    field = JOB_FIELDS[NAMES.index("gpu_memory_bytes")]
    assert field.parse(field.spelling.write(24 * GB)) == 24 * GB


@pytest.mark.parametrize("job", [Job(), Job(**OTHERS)])
def test_the_meter_is_asked_for_the_same_job_as_it_says_it_ran(job: Job) -> None:
    words = meter_arguments(job)
    ran: dict[str, Any] = {field.option.removeprefix("--").replace("-", "_"): False for field in JOB_FIELDS}
    ran |= {"layers": None, "vision_layers": None, "sequential_targets": None, "progress_bars": False, "cpu_gib": None}
    ran |= {field.option.removeprefix("--").replace("-", "_"): field.default for field in JOB_FIELDS if field.is_recent}
    for word, value in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            key = word.removeprefix("--").replace("-", "_")
            ran[key] = True if value.startswith("--") else _number(value)
    read = Job(**{field.name: field.from_meter(ran) for field in JOB_FIELDS})
    assert read == job.model_copy(update={field.name: field.default for field in JOB_FIELDS if not field.metered})


@pytest.mark.parametrize("name", ["audios", "audio_seconds"])
def test_a_run_of_the_meter_that_is_older_than_a_field_ran_with_its_default(name: str) -> None:
    field = JOB_FIELDS[NAMES.index(name)]
    assert field.is_recent
    assert field.meter_words(field.default) == []
    assert field.from_meter({}) == field.default
    with pytest.raises(KeyError):
        JOB_FIELDS[NAMES.index("images")].from_meter({})


def _number(text: str) -> Any:
    """As argparse reads the meter's integers and floats."""
    return int(text) if text.isdigit() else float(text) if text.replace(".", "").isdigit() else text


def test_the_meter_s_command_line_is_the_one_it_knows() -> None:
    assert " ".join(meter_arguments(Job(**OTHERS))) == (
        "--samples 16 --seq-len 128 --batch-size 2 --images 1 --image-size 644x336 --audios 2 --audio-seconds 12 "
        "--loss-mask --pipeline sequential --sequential-targets A,B --targets-per-subgraph 2 --offload-device cuda "
        "--ranks 2 --no-propagate-error --prefetch --no-calibrate-all-experts --linearized --dtype float16 "
        "--device-map auto_offload --cpu-gib 3.0 --layers 3 --vision-layers 4 --gpu-memory-gib 24.0"
    )


def test_the_summary_says_what_is_not_the_default() -> None:
    assert (
        job_line(Job())
        == "512 samples x 2,048 tokens, batch 1, independent pipeline, GPU of 80 GiB (assumed: say yours with --gpu)"
    )
    said = job_line(Job(gpu_memory_bytes=80 * GIB))
    assert said.endswith("independent pipeline, GPU of 80 GiB"), "somebody said it"
    assert job_line(Job(**OTHERS)) == (
        "16 samples x 128 tokens, batch 2, 1 image of 644x336 each, 2 audio clips of 12 s each, "
        "sequential pipeline, loss masks, targets A, B, 2 targets per subgraph, activations offloaded to gpu, "
        "2 ranks, errors not propagated, prefetch, "
        "no progress bars, routed experts only, linear experts, weights on the disk, "
        "3GiB of RAM for them, first 3 layers, first 4 vision layers, "
        "PYTORCH_ALLOC_CONF=max_split_size_mb:128, CUDA context of 400000000 B, L40S of 24 GiB"
    )
