"""The simulated card beside the real CUDA build, step by step: `python -m tests.measured.cuda.compare [WORD]`.

Every case of cases.py that is recorded (record.py), or those whose name contains the word.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.devices import card
from planner.compress.fit import Rehearsal
from planner.compress.holdings import Peak
from planner.compress.ledger import Ledger
from planner.compress.oneshot import simulate
from planner.compress.program import StepMemory
from planner.compress.ranks import Rank
from planner.compress.recipes import load_recipe
from planner.cuda.build import CudaBuild
from planner.job import Job
from planner.models import load
from planner.models.graph import ModelGraph
from planner.models.source import load_source
from tests import built
from tests.measured.cuda.cases import CudaCase, cuda_cases

CONTEXT = 520_000_000
"""Bytes that the pretended driver's context takes (tests/cudameter)."""

STEP_SHARE = 0.01
JOB_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaStep:
    """One measured step: bytes planned and measured, (requested, allocated, reserved)."""

    name: str
    planned: tuple[int, int, int]
    measured: tuple[int, int, int]

    @property
    def requested(self) -> float:
        """Planned over measured; 1 where neither takes anything."""
        if not self.measured[0]:
            return float("inf") if self.planned[0] else 1.0
        return self.planned[0] / self.measured[0]

    @property
    def reserved(self) -> float:
        """The same of reserved bytes."""
        if not self.measured[2]:
            return float("inf") if self.planned[2] else 1.0
        return self.planned[2] / self.measured[2]


def graph_of(model: str, job: Job) -> ModelGraph:
    """The model as the cudameter's job runs it: `nonzero` reads zeros there, so that no token goes to any expert.

    A plan routes evenly. With targets inside a mixture of experts, or where a block fits just so, that shows.
    """
    if "expert" not in json.dumps(load_source(model).config):
        return built.graph_of(model, job)
    return _unrouted(model, built.cutting(job))


@lru_cache(maxsize=32)
def _unrouted(model: str, job: Job) -> ModelGraph:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "num_experts", lambda _config: 0)
        return load.load_model(model, job)


def recorded_cases() -> list[CudaCase]:
    """The cases with a recording, those of one model together: they share its graph."""
    return sorted((case for case in cuda_cases() if case.recorded.exists()), key=lambda case: case.model)


def steps(case: CudaCase) -> tuple[CudaStep, ...]:
    """Every measured step beside the planned steps that it covers: its setup covers the plan's prepare too."""
    return _compared(case)[0]


def second_steps(case: CudaCase) -> tuple[CudaStep, ...]:
    """The same for the card on which activations wait; empty where there is none."""
    return _compared(case)[1]


_COMPARED: dict[str, tuple[tuple[CudaStep, ...], tuple[CudaStep, ...]]] = {}


def _compared(case: CudaCase) -> tuple[tuple[CudaStep, ...], tuple[CudaStep, ...]]:
    """The steps of the card and of the second one, out of one simulation of the case, whoever asks."""
    if case.name not in _COMPARED:
        planned, rows = simulated(case), recording(case)["steps"]
        first = _beside([(step, step.gpu) for step in planned], [(row, row) for row in rows])
        second = [(step, step.second_gpu) for step in planned if step.second_gpu]
        both = first, _beside(second, [(row, row["second_gpu"]) for row in rows if "second_gpu" in row])
        _COMPARED[case.name] = both
    return _COMPARED[case.name]


def _beside(peaks: Iterable[tuple[StepMemory, Peak]], rows: Iterable[tuple[Any, Any]]) -> tuple[CudaStep, ...]:
    planned: dict[tuple[object, ...], tuple[int, int, int]] = {}
    for step, peak in peaks:
        key = _key(step.modifier, step.subgraph, step.phase)
        planned[key] = _largest(planned.get(key, (0, 0, 0)), _figures(peak))
    measured: dict[tuple[object, ...], tuple[int, int, int]] = {}
    for row, gpu in rows:
        key = _key(row["modifier"], row["subgraph"], row["phase"])
        figures = gpu["peak_bytes"], gpu["peak_allocated_bytes"], gpu["peak_reserved_bytes"]
        measured[key] = _largest(measured.get(key, (0, 0, 0)), figures)
    return tuple(_step(key, planned[key], figures) for key, figures in measured.items())


def job_ratio(case: CudaCase, figure: int) -> float:
    """The job's peak of one figure (0 requested, 1 allocated, 2 reserved), planned over measured."""
    both = steps(case)
    return max(step.planned[figure] for step in both) / max(step.measured[figure] for step in both)


def recording(case: CudaCase) -> Any:
    """The file that record.py wrote."""
    return json.loads(case.recorded.read_text())


def simulated(case: CudaCase) -> list[StepMemory]:
    """The job on its card. It can run out of memory only where the real one came close to it."""
    job = case.job
    program, _ = make_program(graph_of(case.model, job), load_recipe(str(case.recipe_path)), job)
    retried = any(row["alloc_retries"] for row in recording(case)["steps"])
    device = card(job.gpu_memory_bytes, CONTEXT, is_strict=retried)
    second = card(job.gpu_memory_bytes, CONTEXT) if program.second_gpu else None
    ledger = Ledger(gpu=device, second=second)
    rank = Rank(case.rank, job.ranks) if job.ranks > 1 else None
    return simulate(program, Context(job, ledger, cuda=CudaBuild(sm=case.sm), rank=rank)).steps


@cache
def planned_smallest(case_name: str) -> int:
    """The smallest card of this case, as a plan names it."""
    case = next(case for case in cuda_cases() if case.name == case_name)
    job = case.job.model_copy(update={"sm": case.sm})
    program, _ = make_program(graph_of(case.model, job), load_recipe(str(case.recipe_path)), job)
    return Rehearsal(replace(program, saves=False), job).smallest()


def _key(modifier: str | None, subgraph: int | None, phase: str) -> tuple[object, ...]:
    return modifier, subgraph, "setup" if phase == "prepare" else phase


def _figures(peak: Peak) -> tuple[int, int, int]:
    assert peak.held is not None
    return peak.bytes, peak.allocated, peak.held.reserved


def _largest(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])


def _step(key: tuple[object, ...], planned: tuple[int, int, int], measured: tuple[int, int, int]) -> CudaStep:
    return CudaStep(name=" ".join(str(word) for word in key if word), planned=planned, measured=measured)


def table(cases: list[CudaCase]) -> Iterator[str]:
    """A line for each job: the step whose requested bytes are furthest off, and the job's two ratios."""
    yield f"{'job':<70} {'worst step':>10} {'off > 1 %':>9} {'allocated':>9} {'reserved':>9}  step"
    for case in cases:
        both = steps(case)
        worst = max(both, key=lambda step: abs(step.requested - 1))
        off = sum(abs(step.requested - 1) > STEP_SHARE for step in both)
        ratios = f"{job_ratio(case, 1):>9.4f} {job_ratio(case, 2):>9.4f}"
        yield f"{case.name:<70} {worst.requested:>10.4f} {off:>3} of {len(both):>2} {ratios}  {worst.name}"


def main() -> None:
    """Print the table."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for line in table([case for case in recorded_cases() if word in case.name]):
        print(line, flush=True)


if __name__ == "__main__":
    main()
