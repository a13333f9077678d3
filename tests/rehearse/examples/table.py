"""Rehearses the examples and prints what became of each as a table: docs/rehearse.md has one.

CUDAMETER=FOLDER LLMCOMPRESSOR_CHECKOUT=FOLDER python -m tests.rehearse.examples.table [--whole] [--samples N] [WORD...]

WORD: only scripts whose path has it. --whole: with all their layers. --samples: as planner rehearse takes it.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
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
    print("| script | layers | samples | seconds | RAM, script | RAM, report | GPU allocated | outcome |")
    print("|---|---|--:|--:|--:|--:|--:|---|")
    for script in chosen:
        print(_line(script, given), flush=True)


def _line(script: Script, given: argparse.Namespace) -> str:
    checkout, python = Path(os.environ["LLMCOMPRESSOR_CHECKOUT"]), f"{os.environ['CUDAMETER']}/venv/bin/python"
    began, here = time.monotonic(), Path.cwd()
    layers = "all" if given.whole else str(script.layers or "all")
    with tempfile.TemporaryDirectory(prefix="planner_examples_") as folder:
        write_hub(Path(folder) / "hf", script, whole=given.whole)
        os.environ["HF_HOME"] = f"{folder}/hf"
        os.chdir(folder)
        try:
            plan = rehearse(wish_for(script, checkout, python, given.samples, quiet=not given.loud), lambda _text: None)
            assert plan.script is not None
            outcome, samples = plan.script.ended, str(plan.job.samples)
            if outcome != "end":
                outcome += f" at {plan.script.line}: {plan.script.stopped}"
            ram, card = gib(plan.script.resident_bytes or 0), gib(plan.gpu.peak_allocated_bytes)
        except PlannerError as error:
            outcome, samples, ram, card = str(error), str(given.samples or ""), "", ""
        finally:
            os.chdir(here)
    seconds, own = time.monotonic() - began, gib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    name = script.path.removeprefix("examples/")
    return f"| {name} | {layers} | {samples} | {seconds:.0f} | {ram} | {own} | {card} | {outcome} |"


def gib(count: int) -> str:
    """With two decimals."""
    return f"{count / GIB:.2f}"


if __name__ == "__main__":
    sys.exit(main())
