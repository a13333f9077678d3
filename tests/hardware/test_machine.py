import pytest
from pydantic import ValidationError

from planner.errors import JobError
from planner.hardware.machine import AS_SAID, HALF_OF_RAM, HourlyPrice, Machine
from planner.units import GIB


def test_what_nobody_said_is_none_and_there_is_one_card() -> None:
    machine = Machine(source="a test")
    unsaid = set(Machine.model_fields) - {"source", "gpus", "gpu_notes", "notes"}
    assert {getattr(machine, name) for name in unsaid} == {None}
    assert machine.gpus == 1


def test_shared_memory_is_what_was_said() -> None:
    machine = Machine(ram_bytes=64 * GIB, shm_bytes=GIB, source="a test")
    assert (machine.shm_size_bytes, machine.shm_label) == (GIB, AS_SAID)


def test_shared_memory_that_nobody_said_is_half_of_ram_and_says_so() -> None:
    machine = Machine(ram_bytes=64 * GIB, source="a test")
    assert (machine.shm_size_bytes, machine.shm_label) == (32 * GIB, HALF_OF_RAM)


def test_shared_memory_of_unknown_ram_is_unknown() -> None:
    machine = Machine(source="a test")
    assert (machine.shm_size_bytes, machine.shm_label) == (None, None)


def test_a_card_is_asked_for_its_bytes() -> None:
    assert Machine(gpu_memory_bytes=24 * GIB, source="a test").card_bytes() == 24 * GIB


@pytest.mark.parametrize(("gpus", "said"), [(0, "has no GPU"), (1, "nobody said the memory")])
def test_a_card_that_nobody_knows_is_refused_with_the_way_out(gpus: int, said: str) -> None:
    with pytest.raises(JobError, match=f"{said}.*--gpu l40s"):
        Machine(gpus=gpus, source="a test").card_bytes()


@pytest.mark.parametrize(
    "values",
    [
        {"ram_bytes": 0},
        {"ram_bytes": -1},
        {"ram_bytes": 2**51},
        {"disk_bytes": -1},
        {"gpu_memory_bytes": 0},
        {"gpus": -1},
        {"gpus": 2**17},
        {"cores": 0},
        {"colour": "red"},
    ],
)
def test_sizes_that_no_machine_has_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Machine.model_validate({"source": "a test", **values})


@pytest.mark.parametrize("amount", [0, -1, float("inf"), float("nan")])
def test_a_price_is_a_positive_number_of_a_currency(amount: float) -> None:
    assert HourlyPrice(amount=1.5, currency="EUR").amount == 1.5
    with pytest.raises(ValidationError):
        HourlyPrice(amount=amount, currency="USD")
    with pytest.raises(ValidationError):
        HourlyPrice(amount=1, currency="$")
