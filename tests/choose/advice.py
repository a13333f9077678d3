"""Following advice: every change that `fit` names is planned again by the command that it shows.

    python -m tests.choose.advice [--layers N] [--seconds S] [MODEL ...]

follows the advice for every shipped recipe on every shipped preset (or these) and five machines around what the job
asks, until the time is up, and prints what does not do what it says. The first round meets every model and every
recipe, each further one with another partner. Without `--layers` the models are whole: hours; `--skip` goes on where an
earlier sweep ended.
"""

import argparse
import contextlib
import io
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from time import monotonic
from typing import Any
from unittest import mock

from planner.choose.estimator import Estimator
from planner.choose.fit import Search
from planner.choose.schema import Choice
from planner.choose.strategies import ASKED
from planner.cli import main as command
from planner.errors import PlannerError
from planner.hardware.demand import Demand
from planner.hardware.machine import Machine
from planner.job import Job
from planner.models import load
from planner.models.source import list_presets
from planner.recipe.files import list_recipes
from planner.units import GIB, MIB

FITTING = ("yes", "slow")
MACHINES = ("room for all", "a card too small", "too little RAM", "both too small", "four cards too small")


def machine(name: str, asked: Choice) -> Machine:
    """One of the five, by what the job as asked takes."""
    card, ram = (each.at_least_bytes if (each := asked.demand(what)) else 0 for what in ("GPU", "RAM"))
    small, little = max(card * 9 // 10, 600 * MIB), max(ram * 9 // 10, 2 * GIB)
    sizes = {
        "room for all": (2 * card + GIB, 4 * ram + GIB, 1),
        "a card too small": (small, 4 * ram + GIB, 1),
        "too little RAM": (2 * card + GIB, little, 1),
        "both too small": (small, little, 1),
        "four cards too small": (small, 4 * ram + GIB, 4),
    }
    gpu, has, gpus = sizes[name]
    return Machine(gpu_memory_bytes=gpu, ram_bytes=has, disk_bytes=2**44, gpus=gpus, source=f"a test: {name}")


def broken_advice(estimator: Estimator, job: Job, name: str) -> Iterator[str]:
    """Every promise for this machine that the planned command does not keep, in words."""
    on = machine(name, estimator.choice(job, ASKED, Machine(source="a test")))
    answer = Search(estimator, job, on).fit()
    if answer.fits == "no" and not (answer.fixes or answer.closest or answer.answer.fails):
        yield "a no without any advice"
    for choice in (answer.answer, *answer.fixes, *answer.closest):
        yield from (f"{choice.strategy}: {text}" for text in broken_promises(choice))
    for fix in answer.fixes:
        if fix.fits not in FITTING:
            yield f"{fix.strategy}: advised, and fits {fix.fits}"


def broken_promises(choice: Choice) -> Iterator[str]:
    """What the command of a choice plans otherwise than the choice says."""
    status, plan = planned(choice.command)
    if plan is None:
        yield f"not accepted, exit code {status}: {choice.command}"
        return
    if plan["fits"] != choice.fits:
        yield f"fits {plan['fits']}, not {choice.fits}: {choice.command}"
    said = {demand["resource"]: Demand.model_validate(demand) for demand in plan["demands"]}
    for demand in choice.demands:
        if not agree(demand, said[demand.resource]):
            yield f"{demand} is {said[demand.resource]}: {choice.command}"


def agree(advised: Demand, found: Demand) -> bool:
    """The same figures, but for two of a card. The smallest one is looked for by halves, from another start: where a
    job adapts to the card it is not the only one (compress/fit.py), and the two may be a sixteenth apart. What a card
    that is too small would reserve with room depends on what the job was told is free.
    """
    if advised.resource in ("GPU", "second GPU"):
        is_near = abs(advised.at_least_bytes - found.at_least_bytes) <= found.at_least_bytes // 16 + 4 * MIB
        is_same = advised.needs_bytes == found.needs_bytes or found.outcome == "over"
        return advised.outcome == found.outcome and is_same and is_near
    return advised == found


def planned(line: str) -> tuple[int, Any]:
    """Exit code of a command line, and the plan that it prints as JSON; None for none."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = command([*shlex.split(line)[1:], "--format", "json"])
    return status, json.loads(stdout.getvalue()) if status == 0 else None


@contextlib.contextmanager
def built_once() -> Iterator[None]:
    """Inside, models are built once for each size, and cut once for each way: what is tested comes after both."""
    build, cut = load.load_built, load.graph_of
    graphs: dict[Any, Any] = {}

    @cache
    def load_built(model: Any, shape: Any) -> Any:
        return build(model, shape)

    def graph_of(built: Any, job: Job) -> Any:
        key = id(built), *job.decides_graph
        if key not in graphs:
            graphs[key] = cut(built, job)
        return graphs[key]

    with mock.patch.object(load, "load_built", load_built), mock.patch.object(load, "graph_of", graph_of):
        yield


def main() -> int:
    """The sweep; 1 where something does not do what it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.choose.advice")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--skip", type=int, default=0, help="pairs of model and recipe that an earlier sweep did")
    parser.add_argument("models", nargs="*")
    options = parser.parse_args()
    models = options.models or [preset.name for preset in list_presets()]
    pairs = list(rounds(models, [info.name for info in list_recipes()]))
    job, begun, found = Job(samples=options.samples, layers=options.layers), monotonic(), 0
    done = options.skip
    for model, recipe in pairs[options.skip :]:
        if monotonic() - begun > options.seconds:
            break
        found += _followed(model, recipe, job)
        done += 1
        print(f"{done} of {len(pairs)}, {monotonic() - begun:,.0f} s: {model} {recipe}", file=sys.stderr, flush=True)
    print(f"{done - options.skip} of {len(pairs)} pairs, {found} with something to mend", file=sys.stderr)
    return 1 if found else 0


def rounds(models: Sequence[str], recipes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every pair once, in rounds: as many as the longer of the two has entries, so that the first meets all of both."""
    shorter, longer = sorted((models, recipes), key=len)
    for first in range(len(shorter)):
        for place, each in enumerate(longer):
            other = shorter[(first + place) % len(shorter)]
            yield (each, other) if longer is models else (other, each)


def _followed(model: str, recipe: str, job: Job) -> bool:
    """Follow the advice for all machines, and print what is to be mended. What is built is forgotten afterwards."""
    texts: list[str] = []
    with built_once():
        try:
            estimator = Estimator(model, recipe)
            for on in MACHINES:
                texts += [f"{on}: {text}" for text in broken_advice(estimator, job, on)]
        except PlannerError as error:  # so does `plan`: there is nothing to advise
            print(f"refused: {model} {recipe}: {error}", file=sys.stderr)
    for text in texts:
        print(f"{model} {recipe} {text}", flush=True)
    return bool(texts)


if __name__ == "__main__":
    sys.exit(main())
