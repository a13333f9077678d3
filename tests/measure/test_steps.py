"""How the recorder cuts time into steps, told by hand; test_metered.py lets the real library tell."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from planner.measure import probes
from planner.measure.probes import NoDevice, Reading, Sampler, resident_bytes
from planner.measure.record import CpuFigures, GpuFigures, MeasuredStep
from planner.measure.steps import StepRecorder, subgraph_names


class Readings:
    """Hands out one reading per step: seconds, requested bytes."""

    def __init__(self, *values: int) -> None:
        self.values = list(values)

    def take(self) -> Reading:
        value = self.values.pop(0)
        gpu = GpuFigures(requested_bytes=value, reserved_bytes=value, end_allocated_bytes=value)
        return Reading(1.0, gpu, CpuFigures(rss_bytes=value))


def recorder(*values: int, **named: Any) -> StepRecorder:
    readings: Any = Readings(*values)
    return StepRecorder(readings, **named)


def shown(steps: Sequence[MeasuredStep]) -> list[tuple[object, ...]]:
    return [(step.modifier, step.subgraph, step.phase, step.gpu.requested_bytes) for step in steps]


def test_each_step_is_what_was_between_two_begins() -> None:
    it = recorder(0, 10, 20, 30)
    it.begin("setup")
    it.serve("GPTQModifier")
    it.begin("calibrate", 1, 2)
    it.begin("compress", 1, 2)
    it.end()
    gptq = "GPTQModifier"
    assert shown(it.steps) == [(gptq, None, "setup", 10), (gptq, 1, "calibrate", 20), (gptq, 1, "compress", 30)]
    assert [step.index for step in it.steps] == [0, 1, 2]


def test_what_lies_between_steps_is_shown_only_where_it_is_higher() -> None:
    low, high = recorder(0, 20, 5, 30), recorder(0, 20, 25, 30)
    for it in (low, high):
        it.begin("propagate", 1, 2)
        it.begin("between", 1, 2)
        it.begin("calibrate", 2, 2)
        it.end()
    assert [step.phase for step in low.steps] == ["propagate", "calibrate"]
    assert low.steps[0].seconds == 2.0
    assert low.steps[0].gpu.end_allocated_bytes == 5
    assert [step.phase for step in high.steps] == ["propagate", "between", "calibrate"]


def test_the_open_step_becomes_the_last_one_when_calibration_ends() -> None:
    it = recorder(0, 20, 25)
    it.begin("propagate", 2, 2)
    it.begin("between", 2, 2)
    it.rename("finalize")
    it.end()
    assert shown(it.steps) == [(None, 2, "propagate", 20), (None, None, "finalize", 25)]


def test_units_are_named_as_in_the_plan() -> None:
    it = recorder(0, 1, 1, 1)
    it.names = ["head", "model.layers.0"]
    it.begin("prepare", None, 2)
    it.begin("calibrate", 1, 2)
    it.begin("calibrate", 2, 2)
    it.end()
    assert [step.unit for step in it.steps] == ["activation cache", "head", "model.layers.0"]


@pytest.mark.parametrize(("subgraph", "where"), [(2, "2/5 compress"), (None, "compress")])
def test_where_the_job_is_reads_as_in_a_message(subgraph: int | None, where: str) -> None:
    it = recorder(0, 1)
    it.begin("compress", subgraph, 5)
    assert it.where == where


def test_a_step_that_did_not_end_is_marked() -> None:
    it = recorder(0, 7)
    it.begin("compress", 2, 5)
    it.end(partial=True)
    assert it.steps[0].partial
    assert it.steps[0].gpu.requested_bytes == 7


def test_whoever_listens_gets_all_steps_so_far() -> None:
    heard: list[int] = []
    it = recorder(0, 1, 2, on_step=lambda steps: heard.append(len(steps)))
    it.begin("setup")
    it.begin("compress")
    it.end()
    assert heard == [1, 2]


def test_a_subgraph_is_named_after_its_targets() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Embedding(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))

    def graph(*targets: str) -> Any:
        nodes = [SimpleNamespace(target=target) for target in targets]
        return SimpleNamespace(graph=SimpleNamespace(find_nodes=lambda **_: nodes))

    subgraphs = [graph("0"), graph("1"), graph("2", "2"), graph("0")]
    assert subgraph_names(model, ["Linear"], subgraphs) == ["head", "1", "2", "0"]


def test_the_sampler_sees_memory_that_came_and_went_between_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    grown, seen = threading.Event(), threading.Event()
    to_come = iter([900])

    def look() -> int:
        if not grown.is_set():
            return 100
        if threading.current_thread() is threading.main_thread():
            return 300
        resident = next(to_come, 300)
        if resident == 300:
            seen.set()  # the thread looks again, so its 900 has been noted
        return resident

    monkeypatch.setattr(probes, "resident_bytes", look)
    with Sampler(NoDevice(), every=0.001) as sampler:
        sampler.take()
        grown.set()
        assert seen.wait(timeout=60)
        readings = sampler.take(), sampler.take()
    assert [reading.cpu.rss_bytes for reading in readings] == [900, 300]
    assert readings[0].gpu.requested_bytes is None
    assert readings[0].seconds > 0


def test_a_process_sees_its_own_resident_memory_grow() -> None:
    before = resident_bytes()
    block = b"x" * 256 * 2**20
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert after - before >= len(block) // 2
