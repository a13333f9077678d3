import json

import pytest

from planner.errors import JobError
from planner.hardware import TABLE, find_gpu, list_gpus
from planner.units import GIB


@pytest.mark.parametrize("text", ["rtx4090", "RTX 4090", "NVIDIA GeForce RTX 4090", "4090", "rtx-4090"])
def test_a_gpu_answers_to_every_usual_spelling(text: str) -> None:
    assert find_gpu(text).name == "RTX 4090"
    assert find_gpu(text).bandwidth == 1008 * 10**9


def test_a_size_is_a_gpu_of_which_nothing_else_is_known() -> None:
    gpu = find_gpu("24GiB")
    assert (gpu.memory_bytes, gpu.bandwidth) == (24 * GIB, None)
    assert find_gpu("24GB").memory_bytes == 24 * 10**9


def test_an_unknown_name_is_refused_with_the_nearest_and_the_way_out() -> None:
    with pytest.raises(JobError, match=r"unknown GPU 'rtx4091'; did you mean .*24GiB"):
        find_gpu("rtx4091")
    with pytest.raises(JobError, match="known are RTX 3060"):
        find_gpu("abacus")


def test_every_gpu_has_memory_bandwidth_and_a_source() -> None:
    for gpu in list_gpus():
        assert 8 * GIB <= gpu.memory_bytes <= 1024 * GIB
        assert gpu.bandwidth and 100 * 10**9 <= gpu.bandwidth <= 20_000 * 10**9
        assert len(gpu.source) > 20


def test_no_name_stands_for_two_gpus() -> None:
    names = [name.lower() for gpu in list_gpus() for name in (gpu.name, *gpu.aliases)]
    assert len(names) == len(set(names))
    for gpu in list_gpus():
        assert all(find_gpu(name) == gpu for name in (gpu.name, *gpu.aliases))


def test_aliases_are_lists_of_texts() -> None:
    for record in json.loads(TABLE.read_text(encoding="utf-8"))["gpus"]:
        assert all(isinstance(name, str) for name in record.get("aliases", []))
