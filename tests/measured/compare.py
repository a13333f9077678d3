"""Predicted beside measured, step by step."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan
from planner.job import Job
from planner.measure.accuracy import Match, match_steps
from planner.measure.files import read_measurement
from planner.planning import plan_graph
from planner.units import MIB
from tests.built import cutting, graph_of
from tests.measured.cases import Case

Device = Literal["gpu", "cpu"]

SHARE = 0.01
SLACK = 4 * MIB
"""The goal: every figure within this share of the measured one, or within these bytes of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One figure, predicted and measured, in bytes."""

    what: str
    predicted: int
    measured: int

    @property
    def difference(self) -> int:
        return self.predicted - self.measured

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured if self.measured else float(self.predicted == 0) or float("inf")

    @property
    def is_equal(self) -> bool:
        return abs(self.difference) <= max(self.measured * SHARE, SLACK)


AnyCase = TypeVar("AnyCase", bound=Case)


def by_graph(found: Iterable[AnyCase]) -> list[AnyCase]:
    """Those that share a graph side by side, so that it is still there."""
    return sorted(found, key=lambda case: (case.model, repr(cutting(case.job))))


def predicted(case: Case) -> Plan:
    """The plan of this case."""
    return _plan(case.model, str(case.recipe_path), case.job)


@cache
def _plan(model: str, recipe: str, job: Job) -> Plan:
    return plan_graph(graph_of(model, job), load_recipe(recipe), job)


def measured(case: Case) -> dict[str, Any]:
    """What the meter (tests/meter) said."""
    found: dict[str, Any] = json.loads(case.recorded.read_text())
    return found


def steps(case: Case) -> list[Match]:
    """Each measured step with the steps of the plan that it covers; none is left out."""
    matches, missing = match_steps(predicted(case), read_measurement(str(case.recorded)))
    assert not missing, f"{case.name}: not planned: {missing}"
    return matches


def pairs(case: Case, device: Device) -> Iterator[Pair]:
    """The peak of every measured step: setup, calibrate, compress, propagate, finalize."""
    for planned, step in steps(case):
        theirs = step.gpu.requested_bytes if device == "gpu" else step.cpu.tensor_bytes
        assert theirs is not None, "the meter measures both"
        mine = max((each.gpu if device == "gpu" else each.cpu).peak_bytes for each in planned)
        where = " ".join(str(word) for word in (step.modifier, step.subgraph, step.phase) if word)
        yield Pair(what=where, predicted=mine, measured=theirs)


def peak(case: Case, device: Device) -> Pair:
    """The highest bytes of the whole job but for save, which the meter does not run."""
    planned = (step.gpu if device == "gpu" else step.cpu for step in predicted(case).steps if step.phase != "save")
    return Pair(
        what=f"{device} peak",
        predicted=max(peak.peak_bytes for peak in planned),
        measured=measured(case)[device]["peak_bytes"],
    )
