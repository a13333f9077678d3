import json
import re

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


# "GPU 0 has a total capacity of ... GiB" of PyTorch's out-of-memory errors with these cards; several drivers of one
# card: the least. V100 16GB: total_memory of torch.cuda.get_device_properties.
REPORTED = {
    "RTX 3060": 11.76, "RTX 3080": 9.65, "RTX 3090": 23.57, "RTX 3090 Ti": 23.55, "RTX 4060 Ti": 15.60,
    "RTX 4070": 11.56, "RTX 4080": 15.57, "RTX 4090": 23.64, "RTX 5070 Ti": 15.47, "RTX 5080": 15.47,
    "V100 16GB": 15.76, "V100": 31.73, "P40": 22.38, "A30": 23.50, "A40": 44.42, "L40": 44.40, "L40S": 44.39,
    "A5000": 23.68, "A6000": 47.53, "RTX 6000 Ada": 47.38, "RTX PRO 6000": 94.97, "A100 40GB": 39.39,
    "A100": 79.14, "A100 80GB PCIe": 79.14, "H100": 79.10, "H100 NVL": 93.09, "H200": 139.81,
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_a_card_has_what_cuda_reports_and_no_more(name: str) -> None:
    assert REPORTED[name] - 0.01 < find_gpu(name).memory_bytes / GIB <= REPORTED[name]


def test_what_cuda_has_is_what_the_source_says() -> None:
    for gpu in list_gpus():
        said = re.search(r"CUDA has ([\d.]+) GiB", gpu.source)
        assert said is None or float(said[1]) == pytest.approx(gpu.memory_bytes / GIB, abs=0.006)
