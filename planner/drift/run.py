"""Rehearses the jobs in an environment, plans them here, and lays both beside each other."""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from planner.drift.cases import DriftCase
from planner.drift.compare import NOTHING_COMPARED, compare_steps
from planner.drift.schema import Drift, DriftOfJob
from planner.errors import RehearseError, StoppedError
from planner.upstream import LLMCOMPRESSOR_VERSION

if TYPE_CHECKING:
    from planner.compress.schema import Plan

SHOWN = ("llmcompressor", "compressed-tensors", "transformers", "torch")
TRACED_WITH = ("transformers", "torch")
INTERRUPTED = 130


def drift(cases: Sequence[DriftCase], environment: str | None, wanted: str | None, say: Callable[[str], None]) -> Drift:
    """Rehearse every case with the environment's LLM Compressor and plan it with planner's own.

    Raises RehearseError where the environment cannot rehearse, or has another release than `wanted`; what
    `planner plan` raises for a case; StoppedError on Ctrl-C. A job that the release does not get through is a result.
    """
    from planner.rehearse.build import interpreter

    python = python_of(environment)
    packages = {name: found for name, found in interpreter(python, "--environment").packages.items() if found}
    check_release(environment, packages.get("llmcompressor"), wanted)
    jobs = []
    for number, case in enumerate(cases, 1):
        jobs.append(_job(case, python, _saying(say, f"{number}/{len(cases)} {case.name}")))
    return Drift(
        planned_for=LLMCOMPRESSOR_VERSION,
        versions={name: packages[name] for name in SHOWN if name in packages},
        planned_with={name: _own(name) for name in TRACED_WITH},
        jobs=tuple(jobs),
    )


def _saying(say: Callable[[str], None], about: str) -> Callable[[str], None]:
    """What is said, with what it is about in front."""
    return lambda text: say(f"{about}: {text}")


def python_of(environment: str | None) -> str | None:
    """The interpreter of a virtual environment's folder, or of a Python that was named itself; None: planner's own.

    Raises RehearseError for a folder that holds none.
    """
    if environment is None or not Path(environment).is_dir():
        return environment
    places = (Path(environment) / inside / "bin" / "python" for inside in ("", "venv"))  # tests/cudameter/setup.sh's
    if (found := next((place for place in places if place.exists()), None)) is not None:
        return str(found)
    raise RehearseError(f"--environment {environment}: no bin/python in this folder; name a venv or its Python")


def check_release(environment: str | None, found: str | None, wanted: str | None) -> None:
    """Raise RehearseError, with what makes the environment, where it has no or another LLM Compressor."""
    release = wanted or LLMCOMPRESSOR_VERSION
    if found is not None and found == (wanted or found):
        return
    name = f"--environment {environment}" if environment else "planner's own environment"
    has = f"has llmcompressor {found}, not {release}" if found else "has no llmcompressor"
    folder = f"llmcompressor-{release}"
    raise RehearseError(
        f"{name} {has}; make one that does: python -m venv {folder} && {folder}/bin/pip install "
        f"llmcompressor=={release}, then --environment {folder}"
    )


def _own(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _job(case: DriftCase, python: str | None, say: Callable[[str], None]) -> DriftOfJob:
    from planner.planning import plan

    began = time.monotonic()
    say("planning")
    planned = plan(case.model, case.recipe, case.job)
    found, stopped = NOTHING_COMPARED, None
    try:
        rehearsed = _rehearsed(case, python, say)
        found, stopped = compare_steps(rehearsed, planned), _ran_out(rehearsed)
    except (StoppedError, RehearseError) as error:
        if error.exit_code == INTERRUPTED:
            raise
        stopped = str(error)
    return DriftOfJob(
        name=case.name,
        model=case.model,
        recipe=case.recipe,
        options=case.options,
        steps=found.steps,
        worst=found.worst,
        off=found.off,
        only_rehearsed=found.only_rehearsed,
        only_planned=found.only_planned,
        collected_bytes=found.collected_bytes,
        stopped=stopped,
        seconds=round(time.monotonic() - began, 1),
    )


def _rehearsed(case: DriftCase, python: str | None, say: Callable[[str], None]) -> "Plan":
    from planner.rehearse.job import rehearse_job
    from planner.rehearse.run import ScriptWish

    job = case.job
    cards = 2 if job.has_second_gpu else 1
    wish = ScriptWish(script=Path(), arguments=(), job=job, python=python, cards=cards, quiet=True)
    return rehearse_job(wish, case.model, case.recipe, say)


def _ran_out(rehearsed: "Plan") -> str | None:
    """Why the rehearsal stopped, where the pretended card's memory was not enough for it."""
    verdict = rehearsed.verdict
    return "out of memory" if verdict is not None and verdict.outcome == "out of memory" else None
