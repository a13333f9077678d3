from pathlib import Path
from typing import Any

import pytest

from planner.errors import JobError
from planner.hardware import choice, find_gpu, label_notes
from planner.hardware.choice import machine_of
from planner.hardware.machine import HourlyPrice, Machine
from planner.hardware.machines import find_machine, list_machines
from planner.hardware.seen import NO_CARD
from planner.units import GB, GIB, TB

HERE = Machine(
    gpu="L4",
    gpu_memory_bytes=22 * GIB,
    sm=89,
    ram_bytes=32 * GIB,
    ram_available_bytes=20 * GIB,
    disk_bytes=100 * GB,
    cache_disk_bytes=50 * GB,
    shm_bytes=8 * GIB,
    source="this machine",
    gpu_notes=("about the card",),
    notes=("about the RAM",),
)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "this_machine", lambda: HERE)


def test_nothing_said_is_a_machine_of_which_nothing_is_known() -> None:
    assert machine_of() == Machine(source="as given on the command line")


def test_a_machine_may_be_put_together() -> None:
    machine = machine_of(gpu="l40s", gpus=2, ram="128GiB", disk="1TB")
    card = find_gpu("l40s")
    assert (machine.gpu, machine.gpu_memory_bytes, machine.sm, machine.gpus) == ("L40S", card.memory_bytes, 89, 2)
    assert (machine.ram_bytes, machine.disk_bytes) == (128 * GIB, TB)
    assert machine.source == "as given on the command line"


def test_a_card_that_is_a_size_has_no_name_and_the_note_on_labels() -> None:
    machine = machine_of(gpu="24GiB")
    assert (machine.gpu, machine.gpu_memory_bytes, machine.sm) == (None, 24 * GIB, None)
    assert machine.gpu_notes == label_notes(24 * GIB)
    assert machine_of(gpu_memory="24GiB") == machine


def test_a_machine_of_the_table_is_as_it_is() -> None:
    assert machine_of(machine="p4d.24xlarge") == find_machine("p4d.24xlarge", list_machines())
    assert machine_of(here=True) == HERE


def test_single_options_override_the_machine() -> None:
    machine = machine_of(machine="p4d.24xlarge", gpus=1, ram="64GiB", disk="1TB")
    assert (machine.name, machine.gpu, machine.gpus) == ("p4d.24xlarge", "A100 40GB SXM", 1)
    assert (machine.ram_bytes, machine.disk_bytes) == (64 * GIB, TB)
    assert machine.source.endswith("; GPUs and RAM and disk as given on the command line")


def test_less_of_a_machine_costs_what_the_machine_costs_and_more_of_it_has_no_price() -> None:
    price = HourlyPrice(amount=21.957642, currency="USD")
    assert machine_of(machine="p4d.24xlarge", gpus=1, ram="64GiB", disk="20TB").price == price
    assert machine_of(machine="p4d.24xlarge", gpu="A100-SXM4-40GB").price == price
    for more in ({"gpus": 9}, {"ram": "2000GiB"}, {"gpu": "h100"}, {"gpu_memory": "40GiB"}):
        assert machine_of(machine="p4d.24xlarge", **more).price is None


def test_ram_that_is_typed_leaves_nothing_of_what_was_seen_of_it() -> None:
    machine = machine_of(here=True, ram="64GiB")
    assert (machine.ram_available_bytes, machine.shm_bytes, machine.shm_size_bytes) == (None, None, 32 * GIB)
    assert machine.notes == ()
    assert machine.gpu_notes == HERE.gpu_notes


def test_a_disk_that_is_typed_is_the_only_one() -> None:
    machine = machine_of(here=True, disk="1TB")
    assert (machine.disk_bytes, machine.cache_disk_bytes) == (TB, None)


def test_a_card_that_is_typed_takes_its_notes_with_it() -> None:
    machine = machine_of(here=True, gpu="h100")
    assert (machine.gpu, machine.sm, machine.gpu_notes, machine.notes) == ("H100 SXM", 90, (), HERE.notes)


def test_a_card_that_is_typed_is_one_where_none_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "this_machine", lambda: Machine(gpus=0, gpu_notes=(NO_CARD,), source="this machine"))
    assert machine_of(here=True).gpus == 0
    assert machine_of(here=True, gpu="l4").gpus == 1
    assert machine_of(here=True, gpu="l4", gpus=3).gpus == 3


def test_a_users_catalogue_brings_machines_and_newer_prices(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "name,gpu,price,currency,cloud\nbox,l4,,,\np4d.24xlarge,A100-SXM4-40GB,9,USD,aws\n", encoding="utf-8"
    )
    assert machine_of(machine="box", catalogues=[str(path)]).gpu == "L4"
    newer = machine_of(machine="p4d.24xlarge", catalogues=[str(path)])
    assert newer.price == HourlyPrice(amount=9, currency="USD")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"machine": "p4d.24xlarge", "here": True}, "--machine p4d.24xlarge and --here are two machines; give one"),
        ({"machine": "p4d"}, "unknown machine 'p4d'; the nearest names are"),
        ({"gpu": "l41s"}, "unknown GPU 'l41s'; the nearest names are"),
        ({"gpu": "l40s", "gpu_memory": "48GB"}, "--gpu l40s has 44.39 GiB and --gpu-memory 48GB is"),
        ({"gpu": "0GiB"}, "GPU '0GiB' is not a positive size"),
        ({"gpu": "2000TiB"}, r"--gpu 2000TiB: no card has more than 1,024.00 TiB"),
        ({"gpu_memory": "l40s"}, "--gpu-memory: 'l40s' is not a size"),
        ({"gpus": 0}, "--gpus 0: write a number from 1 to"),
        ({"gpus": -1}, "--gpus -1: write a number from 1 to"),
        ({"gpus": 10**9}, "--gpus 1000000000: write a number from 1 to"),
        ({"ram": "0"}, "--ram: '0' is not a positive size"),
        ({"ram": "0GiB"}, "--ram: '0GiB' is not a positive size"),
        ({"ram": "-5GiB"}, "--ram: '-5GiB' is not a size"),
        ({"ram": "1e30"}, "--ram: '1e30' is not a size"),
        ({"ram": "9" * 400 + "GiB"}, "--ram: '999.*' is larger than any memory"),
        ({"ram": "64"}, "--ram: '64' has no unit"),
        ({"ram": "2000TiB"}, "--ram 2000TiB: no machine has more than 1,024.00 TiB"),
        ({"disk": "0GB"}, "--disk: '0GB' is not a positive size"),
        ({"disk": "9000000TiB"}, "--disk 9000000TiB: no machine has more than"),
    ],
)
def test_what_makes_no_sense_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said) as refused:
        machine_of(**options)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
