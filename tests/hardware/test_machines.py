import json
import re
from datetime import date

import pytest

from planner.errors import JobError
from planner.hardware import find_gpu, list_gpus
from planner.hardware.machine import HourlyPrice, Machine
from planner.hardware.machines import MACHINES, find_machine, list_machines, together
from planner.units import GB, GIB, TIB

ROWS = json.loads(MACHINES.read_text(encoding="utf-8"))


def test_every_row_has_a_source_and_the_date_of_it() -> None:
    assert len(list_machines()) >= 40
    for machine in list_machines():
        assert len(machine.source) > 20
        assert machine.date is not None
        assert date(2024, 1, 1) <= date.fromisoformat(machine.date)
        assert machine.date in machine.source


def test_every_source_is_used() -> None:
    assert set(ROWS["sources"]) == {row["source"] for row in ROWS["machines"]}


def test_every_card_is_a_card_of_the_table_and_is_written_by_its_name() -> None:
    names = {gpu.name for gpu in list_gpus()}
    assert {row["gpu"] for row in ROWS["machines"]} <= names


def test_sizes_have_the_unit_that_the_provider_states() -> None:
    for row in ROWS["machines"]:
        for size in (row["ram"], row["disk"]):
            assert size is None or re.fullmatch(r"[\d.]+(GiB|GB|TiB)", size), row


def test_a_price_has_a_currency_and_no_price_is_null() -> None:
    for row in ROWS["machines"]:
        assert (row["price"] is None) == (row["currency"] is None), row
        assert row["price"] is None or row["price"] > 0


def test_no_name_stands_for_two_machines() -> None:
    assert together(list_machines()) == list_machines()
    for machine in list_machines():
        assert find_machine(f"{machine.cloud}/{machine.name}", list_machines()) == machine


def test_the_families_that_people_rent_are_there() -> None:
    families = {re.split(r"[.\-]", machine.name or "")[0] for machine in list_machines() if machine.cloud == "aws"}
    assert families == {"p4d", "p4de", "p5", "p5e", "p5en", "p6", "g4dn", "g5", "g6", "g6e"}
    families = {(machine.name or "").split("-")[0] for machine in list_machines() if machine.cloud == "gcp"}
    assert families >= {"a2", "a3", "g2"}
    assert {machine.cloud for machine in list_machines()} >= {"aws", "gcp", "azure", "lambda", "runpod"}


def test_a_machine_is_what_its_provider_says() -> None:
    machine = find_machine("P4D.24xlarge", list_machines())
    assert (machine.gpu, machine.gpus, machine.sm) == ("A100 40GB SXM", 8, 80)
    assert machine.gpu_memory_bytes == find_gpu("A100 40GB SXM").memory_bytes
    assert (machine.ram_bytes, machine.disk_bytes, machine.cores) == (1152 * GIB, 8000 * GB, 96)
    assert machine.price == HourlyPrice(amount=21.957642, currency="USD")
    assert machine.region == "us-east-1"


def test_lambda_sells_by_the_gpu_and_a_price_here_is_the_machines() -> None:
    machine = find_machine("gpu_8x_h100_sxm5", list_machines())
    assert machine.price is not None
    assert machine.price.amount == pytest.approx(8 * 3.99)
    assert (machine.ram_bytes, machine.disk_bytes) == (1800 * GIB, 22 * TIB)


def test_unknown_ram_is_none() -> None:
    assert find_machine("vast/1x_H100_SXM", list_machines()).ram_bytes is None


def test_an_unknown_machine_is_refused_with_the_nearest_names_and_the_way_out() -> None:
    with pytest.raises(JobError, match=r"unknown machine 'p4d.24xlrge'; the nearest names are p4d.24xlarge.*--gpu"):
        find_machine("p4d.24xlrge", list_machines())
    with pytest.raises(JobError) as refused:
        find_machine("x" * 1000, list_machines())
    assert len(str(refused.value)) < 300


def test_a_name_that_two_clouds_have_is_refused_with_both() -> None:
    machines = [Machine(name="big", cloud=cloud, source="a test") for cloud in ("a", "b")]
    with pytest.raises(JobError, match=r"--machine big: several have that name; say which: a/big, b/big"):
        find_machine("big", machines)
    assert find_machine("b/BIG", machines) == machines[1]


def test_of_two_rows_for_one_machine_the_later_counts() -> None:
    old, new = (Machine(name="m", cloud="a", ram_bytes=ram, source="a test") for ram in (GIB, 2 * GIB))
    other = Machine(name="n", cloud="a", source="a test")
    assert together([old, other, new]) == (new, other)
