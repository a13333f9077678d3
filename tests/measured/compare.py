"""Predicted beside measured, step by step."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan, Step
from planner.models.load import load_model
from planner.planning import plan_graph
from tests.measured.cases import Case

PHASES = ("calibrate", "compress", "propagate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One figure, predicted and measured, in bytes."""

    what: str
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured if self.measured else float(self.predicted == 0) or float("inf")

    def within(self, share: float, slack: int = 0) -> bool:
        """Equal up to a share of the measured figure, or up to `slack` bytes."""
        return abs(self.predicted - self.measured) <= max(self.measured * share, slack)


@cache
def plan_of(case_model: str, recipe_path: str, job_json: str) -> Plan:
    """The plan of a measured job."""
    from planner.job import Job

    job = Job.model_validate_json(job_json)
    return plan_graph(load_model(case_model, job), load_recipe(recipe_path), job)


def predicted(case: Case) -> Plan:
    """The plan of this case."""
    return plan_of(case.model, str(case.recipe_path), case.job.model_dump_json())


def measured(case: Case) -> dict[str, object]:
    """What the meter said."""
    return json.loads(case.recorded.read_text())  # type: ignore[no-any-return]


def steps(case: Case) -> Iterator[tuple[Step, dict]]:  # type: ignore[type-arg]
    """Each measured step of the phases that count, with the step of the plan that bears its name."""
    mine = {(s.modifier, s.subgraph, s.phase): s for s in predicted(case).steps}
    for step in measured(case)["steps"]:  # type: ignore[attr-defined]
        if step["phase"] in PHASES:
            yield mine[step["modifier"], step["subgraph"], step["phase"]], step


def gpu_pairs(case: Case) -> Iterator[Pair]:
    """GPU peak of every calibrate, compress and propagate step."""
    for mine, theirs in steps(case):
        where = f"{theirs['modifier']} {theirs['subgraph'] or ''} {theirs['phase']}"
        yield Pair(what=where, predicted=mine.gpu.peak_bytes, measured=theirs["gpu"]["peak_bytes"])


def gpu_peak(case: Case) -> Pair:
    """Highest GPU bytes over these steps and the rest of the job."""
    return Pair(what="GPU peak", predicted=predicted(case).gpu.peak_bytes, measured=measured(case)["gpu"]["peak_bytes"])  # type: ignore[index]


def cpu_peak(case: Case) -> Pair:
    """Highest CPU bytes of the job."""
    return Pair(what="CPU peak", predicted=predicted(case).cpu.peak_bytes, measured=measured(case)["cpu"]["peak_bytes"])  # type: ignore[index]
