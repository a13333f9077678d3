"""What is known of a strategy before it is planned never rules out one that fits."""

import pytest

from planner.choose.floors import times_too_little
from planner.choose.strategies import ASKED
from planner.hardware.machine import Machine
from planner.job import Job
from planner.units import GIB, MIB
from tests.choose.small import CONFIG, MIXTURE, machine, search


@pytest.mark.parametrize("config", [CONFIG, MIXTURE], ids=["dense", "mixture"])
@pytest.mark.parametrize("recipe", ["gptq_w4a16", "sparsegpt_2of4"])
def test_a_strategy_takes_at_least_what_is_known_of_it(config: dict[str, object], recipe: str) -> None:
    on = Machine(gpu_memory_bytes=GIB, ram_bytes=GIB, source="a test")
    looking = search(on, Job(samples=8, seq_len=128), recipe, config)
    asked = looking.estimator.trial(looking.asked).plan
    for strategy in (ASKED, *looking.candidates):
        demands = looking.estimator.trial(looking.asked, strategy).quick_demands(on)
        takes = {demand.resource: demand.at_least_bytes / GIB for demand in demands}
        for resource, plenty in (("GPU", {"ram_bytes": 1024 * GIB}), ("RAM", {"gpu_memory_bytes": 1024 * GIB})):
            known = times_too_little(strategy, asked, on.model_copy(update=plenty))
            assert known <= takes[resource], (strategy.name, resource)


def test_weights_of_which_a_card_cannot_hold_all_are_not_planned_on_it() -> None:
    looking = search(machine(150 * MIB))
    on_gpu = [each.name for each in looking.candidates if each.changes.get("weights") == "gpu"]
    assert on_gpu
    assert [each.name for each in looking.candidates if looking.is_hopeless(each)] == on_gpu


def test_less_ram_than_saving_takes_leaves_only_what_moves_the_weights() -> None:
    looking = search(machine(ram=GIB // 4))
    hopeful = [each for each in looking.candidates if not looking.is_hopeless(each)]
    assert hopeful
    assert all("weights" in each.changes for each in hopeful)
