"""The part of docs/accuracy.md on PyTorch's own CUDA build: every recorded job, every smallest card that was tried."""

import json
from collections.abc import Sequence

from planner.hardware.gpus import CUDA_CONTEXT
from planner.units import GIB
from tests.measured.cases import options
from tests.measured.cuda.cases import CudaCase, cuda_cases
from tests.measured.cuda.compare import (
    CudaStep,
    job_ratio,
    planned_smallest,
    recorded_cases,
    second_steps,
    steps,
)
from tests.measured.cuda.smallest import RECORDED

HEAD = """
## The caching allocator

The counting device cannot see what CUDA's operators and libraries allocate inside C++, nor the caching allocator. Here
the real LLM Compressor ran on PyTorch {torch}'s own CUDA build over a pretended driver (`tests/cudameter`), which
itself gives the GPU figures that people published to 0.1 % (its README). The runs are in `tests/measured/cuda/runs`.
cuSOLVER's and cuDNN's own workspaces and the true size of the CUDA context are not known from here.

Measured figures are the job's highest, in GiB (2^30): **requested** (what was asked for), **allocated** (with rounding
and what was not split off), **reserved** (segments taken from the driver). A ratio is planned over measured; a worst
step is the one whose figure is furthest off. Every step's requested bytes are within 1 % and its reserved bytes within
2 %, or a test fails ([others](#measured-and-not-in-the-tables)). Progress bars were off. In a mixture of experts no
token is routed to any expert, as `nonzero` reads zeros there; for this page the planner was told so.

Over {jobs} jobs and {steps} steps: requested bytes of {exact} steps are equal to the byte or within 64 bytes of it;
the worst step is off by {worst_requested:.2%} in requested and by {worst_reserved:.2%} in reserved bytes.

"""
FIGURES = ("requested", "allocated", "reserved")
COLUMNS = (
    "model",
    "recipe",
    "options",
    *(word for name in FIGURES for word in (name, "ratio")),
    "worst step, requested",
    "worst step, reserved",
)
SMALLEST_HEAD = """
### The smallest card

The smallest card on which a job gets through, found by trying (`python -m tests.measured.cuda.smallest`, to one part in
a hundred), beside the planner's. Bytes are those that CUDA sees, {context:,} of them the CUDA context's.

"""
SMALLEST = ("model", "recipe", "options", "tried, GiB", "planned, GiB", "ratio")
RULER = "|---|---|---|"


def part() -> str:
    """All of it as text."""
    cases, tried = recorded_cases(), smallest_cases()
    lines = [_line(COLUMNS), RULER + "--:|" * (len(COLUMNS) - 3) + "\n", *map(row, cases)]
    more = [_line(SMALLEST), RULER + "--:|" * (len(SMALLEST) - 3) + "\n", *map(smallest_row, tried)]
    return "".join([_head(cases), *lines, SMALLEST_HEAD.format(context=CUDA_CONTEXT), *more])


def row(case: CudaCase) -> str:
    """One job as a line of the table."""
    both = steps(case)
    figures = []
    for place in range(len(FIGURES)):
        figures += [f"{max(step.measured[place] for step in both) / GIB:.3f}", f"{job_ratio(case, place):.4f}"]
    requested, reserved = (max((part - 1 for part in ratios), key=abs) for ratios in _ratios(both, second_steps(case)))
    return _line([*_names(case), *figures, _share(requested), _share(reserved)])


def smallest_row(case: CudaCase) -> str:
    """One smallest card as a line of the table."""
    planned, tried = planned_smallest(case.name), _tried()[case.name]
    return _line([*_names(case), f"{tried / GIB:.3f}", f"{planned / GIB:.3f}", f"{planned / tried:.4f}"])


def smallest_cases() -> list[CudaCase]:
    """The jobs whose smallest card was looked for."""
    return [case for case in cuda_cases() if case.name in _tried()]


def _tried() -> dict[str, int]:
    found: dict[str, int] = json.loads(RECORDED.read_text())
    return found


def _names(case: CudaCase) -> list[str]:
    shown = options(case, **({} if case.sm == 90 else {"sm": case.sm}))
    return [case.model_name, case.recipe, f"{shown}, rank {case.rank}" if case.rank else shown]


def _ratios(*groups: Sequence[CudaStep]) -> tuple[list[float], list[float]]:
    every = [step for group in groups for step in group]
    return [step.requested for step in every], [step.reserved for step in every]


def _head(cases: list[CudaCase]) -> str:
    every = [step for case in cases for step in steps(case)]
    requested, reserved = (max(abs(part - 1) for part in ratios) for ratios in _ratios(every))
    return HEAD.format(
        torch=_versions(cases[0])["torch"].partition("+")[0],
        jobs=len(cases),
        steps=len(every),
        exact=sum(abs(step.planned[0] - step.measured[0]) <= 64 for step in every),
        worst_requested=requested,
        worst_reserved=reserved,
    )


def _versions(case: CudaCase) -> dict[str, str]:
    found: dict[str, str] = json.loads(case.recorded.read_text())["versions"]
    return found


def _share(off: float) -> str:
    return f"{round(off, 4) + 0.0:+.2%}"  # no -0.00 %


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
