"""Rehearses the examples and prints what became of each as a table: docs/rehearse.md has one.

Seconds are processor time, of the script and of what planner does for it. Each script has processes of its own.

CUDAMETER=FOLDER LLMCOMPRESSOR_CHECKOUT=FOLDER python -m tests.rehearse.examples.table [--whole] [--samples N] [WORD...]

WORD: only scripts whose path has it. --whole: with all their layers. --samples: as planner rehearse takes it.
"""

import argparse
import os
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from planner.errors import PlannerError
from planner.job import Job
from planner.rehearse.run import ScriptWish, rehearse
from planner.units import GIB
from tests.rehearse.examples.hub import write_hub
from tests.rehearse.examples.scripts import MORE, TEN, Script

OWN = Path(__file__).parent


def path_of(script: Script, checkout: Path) -> Path:
    """The script's file."""
    return OWN / script.path if script.path.startswith("own/") else checkout / script.path


def wish_for(script: Script, checkout: Path, python: str, samples: int | None, *, quiet: bool = True) -> ScriptWish:
    """What to rehearse: an 80 GiB card, and with fewer samples where that is asked."""
    job = Job(gpu_memory_bytes=80 * GIB) if samples is None else Job(gpu_memory_bytes=80 * GIB, samples=samples)
    path = path_of(script, checkout)
    return ScriptWish(script=path, arguments=script.arguments, job=job, python=python, quiet=quiet)


def main() -> None:
    """Rehearse each in turn; a line for each as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--loud", action="store_true")
    given = parser.parse_args()
    chosen = [each for each in (*TEN, *MORE) if not given.words or any(word in each.path for word in given.words)]
    print("| script | what | layers | samples | s, script | s, report | RAM, script | RAM, report | GPU | outcome |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|---|")
    for script in chosen:
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            print(fresh.submit(_line, script, given).result(), flush=True)


def _line(script: Script, given: argparse.Namespace) -> str:
    checkout, python = Path(os.environ["LLMCOMPRESSOR_CHECKOUT"]), f"{os.environ['CUDAMETER']}/venv/bin/python"
    name = script.path.removeprefix("examples/")
    layers = "all" if given.whole else str(script.layers or "all")
    with tempfile.TemporaryDirectory(prefix="planner_examples_") as folder:
        write_hub(Path(folder) / "hf", script, whole=given.whole)
        os.environ["HF_HOME"] = f"{folder}/hf"
        os.chdir(folder)
        before = _processor_seconds()
        try:
            plan = rehearse(wish_for(script, checkout, python, given.samples, quiet=not given.loud), lambda _text: None)
        except PlannerError as error:
            return f"| {name} | {script.what} | {layers} | {given.samples or ''} | | | | | | {error} |"
        finally:
            os.chdir("/")
    seconds = [after - then for after, then in zip(_processor_seconds(), before, strict=True)]
    assert plan.script is not None
    outcome = plan.script.ended
    if outcome != "end":
        outcome += f" at {plan.script.line}: {plan.script.stopped}"
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ram, card = gib(plan.script.resident_bytes or 0), gib(plan.gpu.peak_allocated_bytes)
    times = " | ".join(f"{each:.0f}" for each in seconds)
    facts = f"{layers} | {plan.job.samples} | {times} | {ram} | {gib(own)} | {card}"
    return f"| {name} | {script.what} | {facts} | {outcome} |"


def _processor_seconds() -> tuple[float, float]:
    """Of processes that this one has started, and of this one."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    children, own = (used.ru_utime + used.ru_stime for used in each)
    return children, own


def gib(count: int) -> str:
    """With two decimals."""
    return f"{count / GIB:.2f}"


if __name__ == "__main__":
    sys.exit(main())
