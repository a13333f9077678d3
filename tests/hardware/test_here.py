import subprocess
import sys
import types
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import pytest

from planner.hardware import find_gpu, here
from planner.hardware.here import this_machine
from planner.hardware.seen import (
    NO_CARD,
    SeenCard,
    SeenMemory,
    card_figures,
    limited,
    parse_cards,
    parse_cgroups,
    parse_limit,
    parse_statistic,
    visible_cards,
)
from planner.units import GIB, MIB

H100 = SeenCard(name="NVIDIA H100 80GB HBM3", total_bytes=81559 * MIB, sm=90)
L4 = SeenCard(name="NVIDIA L4", total_bytes=23034 * MIB, sm=89)


# ---------------------------------------------------------------------- what nvidia-smi prints
def test_nvidia_smi_prints_a_line_for_each_card() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559, 9.0\nNVIDIA L4, 23034, 8.9\n"
    assert parse_cards(text) == (H100, L4)


def test_a_capability_of_two_digits_before_the_point_is_three_digits() -> None:
    (card,) = parse_cards("NVIDIA RTX PRO 6000 Blackwell Server Edition, 97887, 12.0\n")
    assert card.sm == 120


def test_memory_that_the_driver_does_not_say_is_none() -> None:
    assert parse_cards("NVIDIA GB10, [N/A], 12.1\n") == (SeenCard(name="NVIDIA GB10", total_bytes=None, sm=121),)
    assert parse_cards("Tesla X, [Not Supported], [N/A]\n") == (SeenCard(name="Tesla X", total_bytes=None, sm=None),)


@pytest.mark.parametrize("text", ["", "No devices were found\n", "\n\n"])
def test_a_message_is_no_card(text: str) -> None:
    assert parse_cards(text) == ()


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        (None, (H100, L4)),
        ("1", (L4,)),
        ("1,0", (L4, H100)),
        ("", ()),
        ("-1", ()),
        ("0,7,1", (H100,)),  # CUDA stops at the first number that there is no card for
        ("GPU-0a1b", (H100, L4)),
    ],
)
def test_cards_that_cuda_is_told_to_hide_are_hidden(visible: str | None, left: tuple[SeenCard, ...]) -> None:
    assert visible_cards((H100, L4), visible) == left


# ---------------------------------------------------------------------- cards of the record
def test_a_known_card_has_what_the_table_says_that_cuda_has_of_it() -> None:
    figures = card_figures([H100, H100], 64 * GIB)
    assert figures["gpu_memory_bytes"] == find_gpu("h100").memory_bytes
    assert (figures["gpu"], figures["sm"], figures["gpus"], figures["gpu_notes"]) == ("H100 SXM", 90, 2, ())


def test_an_unknown_card_has_the_drivers_total_and_a_note() -> None:
    figures = card_figures([SeenCard(name="NVIDIA Quokka", total_bytes=10 * GIB, sm=86)], 64 * GIB)
    assert (figures["gpu"], figures["gpu_memory_bytes"], figures["sm"]) == ("NVIDIA Quokka", 10 * GIB, 86)
    assert "10.00 GiB is the driver's total" in str(figures["gpu_notes"])


def test_a_known_name_with_another_memory_is_an_unknown_card() -> None:
    figures = card_figures([SeenCard(name="NVIDIA GeForce RTX 4090", total_bytes=49140 * MIB, sm=89)], 64 * GIB)
    assert figures["gpu_memory_bytes"] == 49140 * MIB
    assert "is not in the table" in str(figures["gpu_notes"])


def test_a_card_that_shares_the_rams_memory_has_no_more_than_it() -> None:
    spark = SeenCard(name="NVIDIA GB10", total_bytes=None, sm=121)
    figures = card_figures([spark], 119 * GIB)
    assert (figures["gpu"], figures["gpu_memory_bytes"]) == ("DGX Spark", 119 * GIB)
    assert "shares the machine's RAM" in str(figures["gpu_notes"])


def test_a_card_whose_memory_nobody_knows_is_said_so() -> None:
    figures = card_figures([SeenCard(name="Tesla X", total_bytes=None, sm=None)], 64 * GIB)
    assert figures["gpu_memory_bytes"] is None
    assert "--gpu-memory 24GiB" in str(figures["gpu_notes"])


def test_cards_of_another_kind_are_left_out_and_named() -> None:
    figures = card_figures([H100, L4, H100], 64 * GIB)
    assert figures["gpus"] == 2
    assert "besides 2 x NVIDIA H100 80GB HBM3 there are other cards, which are left out: NVIDIA L4" in str(figures)


def test_no_card_is_none_and_the_way_out() -> None:
    assert card_figures([], 64 * GIB) == {"gpus": 0, "gpu_notes": (NO_CARD,)}


# ---------------------------------------------------------------------- limits of containers
def test_a_cgroup_of_version_2_is_bound_by_its_own_limit_and_those_above() -> None:
    limits = [str(group.limit) for group in parse_cgroups("0::/user.slice/job\n")]
    assert limits == [
        "/sys/fs/cgroup/user.slice/job/memory.max",
        "/sys/fs/cgroup/user.slice/memory.max",
        "/sys/fs/cgroup/memory.max",
    ]


def test_a_cgroup_of_version_1_has_its_memory_in_a_folder_of_its_own() -> None:
    text = "9:name=systemd:/\n4:memory:/docker/abc\n3:cpuset:/\n1:cpu,cpuacct:/x\n"
    groups = parse_cgroups(text)
    assert [str(group.limit) for group in groups] == [
        "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    assert str(groups[0].used) == "/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes"
    assert groups[0].droppable == "total_inactive_file"


def test_a_system_without_cgroups_has_none() -> None:
    assert parse_cgroups("") == parse_cgroups("nonsense\n") == ()


def test_a_path_that_leaves_the_mount_does_not() -> None:
    assert all(".." not in str(group.limit) for group in parse_cgroups("0::/../../etc\n"))


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("", None), ("9223372036854771712\n", None), ("4294967296\n", 4 * GIB), ("oops", None)],
)
def test_an_unlimited_cgroup_has_no_limit(text: str, limit: int | None) -> None:
    assert parse_limit(text) == limit


def test_a_statistic_is_read_by_its_whole_name() -> None:
    text = "anon 5\ninactive_file 4096\ntotal_inactive_file 8192\n"
    assert parse_statistic(text, "inactive_file") == 4096
    assert parse_statistic(text, "total_inactive_file") == 8192
    assert parse_statistic(text, "file") == 0


def test_a_limit_binds_only_below_the_rams_size() -> None:
    memory = SeenMemory(total=64 * GIB, available=60 * GIB)
    assert limited(memory, 64 * GIB, 0) == memory
    assert limited(memory, 16 * GIB, 5 * GIB) == SeenMemory(total=16 * GIB, available=11 * GIB, limited=True)
    assert limited(memory, 16 * GIB, 20 * GIB).available == 0
    nearly_full = SeenMemory(total=64 * GIB, available=2 * GIB)
    assert limited(nearly_full, 16 * GIB, 0).available == 2 * GIB


# ---------------------------------------------------------------------- this machine
@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files of a system with 64 GiB of RAM and no driver; the test writes into them."""
    files: dict[str, str] = {}
    ram = types.SimpleNamespace(total=64 * GIB, available=60 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: ram)
    monkeypatch.setattr(here, "_read", lambda path: files.get(str(path), ""))
    monkeypatch.setattr(here, "_cards", lambda: ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return files


def test_ram_is_the_systems_where_no_limit_binds(system: dict[str, str]) -> None:
    machine = this_machine()
    assert (machine.ram_bytes, machine.ram_available_bytes, machine.notes) == (64 * GIB, 60 * GIB, ())


def test_ram_is_the_containers_limit_where_it_binds(system: dict[str, str]) -> None:
    system["/proc/self/cgroup"] = "0::/job\n"
    system["/sys/fs/cgroup/job/memory.max"] = f"{16 * GIB}\n"
    system["/sys/fs/cgroup/job/memory.current"] = f"{5 * GIB}\n"
    system["/sys/fs/cgroup/job/memory.stat"] = f"inactive_file {GIB}\n"
    machine = this_machine()
    assert (machine.ram_bytes, machine.ram_available_bytes) == (16 * GIB, 12 * GIB)
    assert machine.notes == ("RAM is the limit of a container (cgroup): 16.00 GiB",)


def test_disks_and_cores_are_those_of_this_machine(system: dict[str, str], tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "not" / "there" / "yet")
    assert machine.disk_bytes and machine.disk_bytes > 0
    assert machine.cores and machine.cores >= 1
    assert (machine.name, machine.source, machine.price) == (None, "this machine", None)
    assert machine.date


def test_cards_that_are_hidden_are_not_there(system: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_cards", lambda: (H100, L4))
    assert this_machine().gpu == "H100 SXM"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert this_machine().gpu == "L4"


def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of this name, first on the path."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_cards_are_asked_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, '[ "$1" = "--query-gpu=name,memory.total,compute_cap" ] && echo "NVIDIA L4, 23034, 8.9"')
    assert here._cards() == (L4,)


def test_a_driver_that_does_not_answer_has_no_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "echo NVIDIA-SMI has failed, 1, 2; exit 9")
    assert here._cards() == ()

    def hang(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    assert here._cards() == ()


def test_pynvml_is_asked_where_there_is_no_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetName=lambda _: "NVIDIA L4",
        nvmlDeviceGetMemoryInfo=lambda _: types.SimpleNamespace(total=23034 * MIB),
        nvmlDeviceGetCudaComputeCapability=lambda _: (8, 9),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setenv("PATH", "/nowhere")
    assert here._cards() == (L4,)


def test_without_a_driver_and_without_pynvml_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert here._cards() == ()


def test_a_file_of_the_system_that_is_not_there_is_empty() -> None:
    assert here._read(PurePosixPath("/nowhere/at/all")) == ""


def test_this_machine_is_read_without_torch() -> None:
    code = (
        "import sys; from planner.hardware.here import this_machine; this_machine(); assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
