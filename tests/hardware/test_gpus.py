import json
import re
from typing import get_origin, get_type_hints

import pytest

from planner.errors import JobError
from planner.hardware import (
    TABLE,
    agreed_gpu,
    cards_labelled,
    find_gpu,
    label_notes,
    list_gpus,
    matching_gpu,
    named_gpu,
    size_notes,
)
from planner.hardware.gpus import GpuRow
from planner.units import GB, GIB, MIB


@pytest.mark.parametrize("text", ["rtx4090", "RTX 4090", "NVIDIA GeForce RTX 4090", "4090", "rtx-4090"])
def test_a_gpu_answers_to_every_usual_spelling(text: str) -> None:
    assert find_gpu(text).name == "RTX 4090"
    assert find_gpu(text).bandwidth == 1008 * 10**9


def test_a_size_is_a_gpu_of_which_nothing_else_is_known() -> None:
    gpu = find_gpu("24GiB")
    assert (gpu.memory_bytes, gpu.bandwidth) == (24 * GIB, None)
    assert find_gpu("24GB").memory_bytes == 24 * 10**9


def test_an_unknown_name_is_refused_with_the_nearest_and_the_way_out() -> None:
    with pytest.raises(JobError, match=r"unknown GPU 'rtx4091'; the nearest names are RTX 4090, .*24GiB"):
        find_gpu("rtx4091")
    with pytest.raises(JobError, match=r"the nearest names are \w.*24GiB") as refused:
        find_gpu("abacus" * 1000)
    assert len(str(refused.value)) < 250


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


def test_every_row_of_the_table_has_the_fields_and_the_types_of_one() -> None:
    kinds = {name: get_origin(hint) or hint for name, hint in get_type_hints(GpuRow).items()}
    for row in json.loads(TABLE.read_text(encoding="utf-8"))["gpus"]:
        assert GpuRow.__required_keys__ <= row.keys() <= kinds.keys(), row["name"]
        for name, value in row.items():
            allowed = (int, float) if kinds[name] is float else kinds[name]
            assert isinstance(value, allowed), (row["name"], name)
            assert isinstance(value, bool) == (kinds[name] is bool), (row["name"], name)
        assert all(isinstance(name, str) for name in row.get("aliases", []))


# "GPU 0 has a total capacity of ... GiB" of PyTorch's out-of-memory errors with these cards; several drivers of one
# card: the least. V100 16GB: total_memory of torch.cuda.get_device_properties.
REPORTED = {
    "RTX 3060": 11.76, "RTX 3080": 9.65, "RTX 3090": 23.56, "RTX 3090 Ti": 23.55, "RTX 4060 Ti": 15.60,
    "RTX 4070": 11.56, "RTX 4080": 15.57, "RTX 4090": 23.49, "RTX 5070 Ti": 15.47, "RTX 5080": 15.47, "RTX 5090": 31.34,
    "V100 16GB": 15.76, "V100": 31.73, "P40": 22.38, "A30": 23.49, "A40": 44.42, "L40": 44.40, "L40S": 44.39,
    "A5000": 23.68, "A6000": 47.53, "RTX 6000 Ada": 47.38, "RTX PRO 6000": 94.97, "A100 40GB": 39.39,
    "A100": 79.14, "A100 80GB PCIe": 79.14, "H100": 79.10, "H100 NVL": 93.09, "H200": 139.81, "B200": 178.35,
    "GH200": 94.50, "T4": 14.56, "L4": 21.96, "A10G": 21.98, "A10": 22.03,
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_a_card_has_what_cuda_reports_and_no_more(name: str) -> None:
    assert REPORTED[name] - 0.01 < find_gpu(name).memory_bytes / GIB <= REPORTED[name]


def test_what_cuda_has_is_what_the_source_says() -> None:
    for gpu in list_gpus():
        said = re.search(r"CUDA has ([\d.]+) GiB", gpu.source)
        assert said is None or float(said[1]) == pytest.approx(gpu.memory_bytes / GIB, abs=0.006)


# ---------------------------------------------------------------------- what a driver calls it
@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB PCIe"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("Tesla V100-SXM2-16GB", "V100 16GB"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell"),
    ],
)
def test_a_card_is_known_by_the_name_that_its_driver_gives_it(driver: str, name: str) -> None:
    found = named_gpu(driver)
    assert found is not None
    assert found.name == name


def test_a_size_and_nonsense_name_no_card() -> None:
    assert named_gpu("24GiB") is None
    assert named_gpu("abacus") is None


# ---------------------------------------------------------------------- compute capability
CAPABILITIES = {
    "V100 32GB": 70, "T4": 75, "A100 80GB SXM": 80, "A30": 80, "A10G": 86, "RTX 3090": 86, "A40": 86, "RTX A6000": 86,
    "L4": 89, "L40S": 89, "RTX 4090": 89, "RTX 6000 Ada": 89, "H100 SXM": 90, "H200": 90, "GH200": 90, "B200": 100,
    "RTX 5090": 120, "RTX PRO 6000": 120,
}  # fmt: skip


def test_cards_have_the_compute_capability_that_torch_reports() -> None:
    assert {name: find_gpu(name).sm for name in CAPABILITIES} == CAPABILITIES


def test_every_nvidia_card_has_a_capability_and_no_other_maker_s_has() -> None:
    for gpu in list_gpus():
        others = gpu.source.startswith(("AMD", "amd.com", "apple.com"))
        assert (gpu.sm is None) == others, gpu.name
        assert gpu.sm is None or isinstance(gpu.sm, int)


# ---------------------------------------------------------------------- labels
def test_a_card_has_no_more_than_its_label_in_gib() -> None:
    for gpu in list_gpus():
        assert gpu.label_gb is None or 0.87 * gpu.label_gb * GIB <= gpu.memory_bytes <= gpu.label_gb * GIB, gpu.name


@pytest.mark.parametrize(
    ("size", "label", "some"),
    [
        (24 * GIB, 24, "RTX 4090 23.49"),
        (24 * GB, 24, "L4 21.96"),
        (80 * GIB, 80, "H100 SXM 79.10"),
        (141 * GB, 141, "H200 139.81"),
        (141 * GIB, 141, "H200 139.81"),
        (16 * GB, 16, "T4 14.56"),
    ],
)
def test_a_size_that_is_a_label_gets_what_cuda_sees_of_cards_with_that_label(size: int, label: int, some: str) -> None:
    (note,) = label_notes(size)
    assert f"sold with {label} GB" in note
    assert some in note
    assert re.search(r"like --gpu [a-z0-9]+\.$", note)
    assert find_gpu(note.rpartition(" ")[2].rstrip(".")).label_gb == label


def test_a_size_that_no_label_says_gets_no_note() -> None:
    for size in (23 * GIB, 79 * GIB, 24 * GIB + 1, 24053 * MIB, 1):
        assert label_notes(size) == cards_labelled(size) == ()


def test_a_card_that_has_all_of_its_label_is_not_warned_of() -> None:
    assert "MI325X" not in str(label_notes(256 * GIB))


def test_a_named_card_gets_no_note_on_its_size() -> None:
    assert size_notes(find_gpu("MI300X")) == size_notes(find_gpu("rtx4090")) == size_notes(None) == ()
    assert size_notes(find_gpu("24GiB")) == label_notes(24 * GIB)


# ---------------------------------------------------------------------- --gpu and --gpu-memory
def test_gpu_memory_is_gpu_for_a_size() -> None:
    assert agreed_gpu(None, None) is None
    assert agreed_gpu("l40s", None) == "l40s"
    assert agreed_gpu(None, "24GiB") == "24GiB"
    assert agreed_gpu("24GiB", "24GiB") == "24GiB"
    assert agreed_gpu("l40s", "45455MiB") == "l40s"


def test_two_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(JobError, match=r"--gpu l40s has 44.39 GiB and --gpu-memory 48GB is 44.70 GiB; give one"):
        agreed_gpu("l40s", "48GB")
    with pytest.raises(JobError, match="--gpu-memory: 'l40s' is not a size"):
        agreed_gpu(None, "l40s")


# ---------------------------------------------------------------------- names with a memory beside them
@pytest.mark.parametrize(
    ("text", "total", "name"),
    [
        ("A100", 40 * GIB, "A100 40GB PCIe"),
        ("A100-80GB", 80 * GB, "A100 80GB SXM"),
        ("V100", 16384 * MIB, "V100 16GB"),
        ("A10G", 22888 * MIB, "A10G"),
        ("H100", 81559 * MIB, "H100 SXM"),
        ("H100", 95830 * MIB, "H100 NVL"),
        ("H200NVL", 141 * GB, "H200 NVL"),
        ("RTX6000-Ada", 49140 * MIB, "RTX 6000 Ada"),
        ("Tesla T4", 15360 * MIB, "T4"),
        ("NVIDIA A100-SXM4-80GB", 81251 * MIB, "A100 80GB SXM"),
    ],
)
def test_a_card_is_found_by_name_and_memory_as_providers_and_drivers_state_them(
    text: str, total: int, name: str
) -> None:
    found = matching_gpu(text, total)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("text", "total"),
    [("RTX 4090", 49140 * MIB), ("RTX4060", 16380 * MIB), ("L4", 48 * GB), ("RTX3060", 8 * GIB), ("abacus", 24 * GIB)],
)
def test_a_name_with_another_cards_memory_is_no_card_of_the_table(text: str, total: int) -> None:
    assert matching_gpu(text, total) is None


def test_every_drivers_total_is_the_cards_own_label_and_more_than_cuda_has() -> None:
    drivers = {gpu.name: gpu for gpu in list_gpus() if gpu.driver_bytes is not None}
    assert len(drivers) >= 20
    for name, gpu in drivers.items():
        assert gpu.driver_bytes is not None
        assert gpu.memory_bytes <= gpu.driver_bytes, name
        found = matching_gpu(name, gpu.driver_bytes)
        assert found is not None
        assert found == gpu


# ---------------------------------------------------------------------- rates
def test_a_rate_names_its_data_sheet_and_a_second_source_and_the_figure_is_in_it() -> None:
    rates = [gpu for gpu in list_gpus() if gpu.bf16_tflops is not None]
    assert len(rates) >= 10
    for gpu in rates:
        assert gpu.bf16_source is not None
        assert re.search(r"(data sheet|whitepaper).*; so in \S+/\S+ ", gpu.bf16_source), gpu.name
        said = float(re.sub(",", "", re.findall(r": ([\d,.]+)", gpu.bf16_source)[0].rstrip(".")))
        assert gpu.bf16_tflops == pytest.approx(said / (2 if "with sparsity" in gpu.bf16_source else 1)), gpu.name


def test_a_card_without_bf16_units_has_no_bf16_rate() -> None:
    assert {gpu.name for gpu in list_gpus() if gpu.sm is not None and gpu.sm < 80 and gpu.bf16_tflops} == set()
