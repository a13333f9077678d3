"""What is measured, beside what, and what we want to see."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tests.benchmarks.measure import ROOT, Pair, Spread, Usage, run_process, take_turns

PRESETS = ROOT / "planner" / "models" / "presets"
CHILDREN = Path(__file__).parent / "children"
# Run from ROOT, so that the planner beside this file is measured, wherever another is installed.
PLANNER = (sys.executable, "-m", "planner")
GIB, MIB = 2**30, 2**20

SMALL, LARGE = "llama-3-8b", "deepseek-r1"
RECIPE, SEARCH = "gptq_w4a16", "awq_w4a16"
SMALL_SEARCH = f"{SMALL}, {SEARCH}"
"""AWQ runs all samples again at each point of its grid: of the shipped recipes it asks most of the allocator."""
MAX_RSS = 2 * GIB
MAX_WHAT_IFS = 5.0
"""Seconds of a thousand what-ifs on the small model, once it is traced and its strategies are simulated."""
MAX_PAIR = 3e-6
"""Seconds of one request to the caching allocator and its free."""
FUNCTIONS = ("simulate", "plan_graph", "Rehearsal", "Rehearsal.smallest")
MAX_SECONDS = {
    (SMALL, "simulate"): 0.05,
    (SMALL, "plan_graph"): 0.05,
    (SMALL, "Rehearsal"): 0.2,
    (LARGE, "Rehearsal"): 2.0,
    (SMALL, "Rehearsal.smallest"): 1.0,
    (SMALL_SEARCH, "simulate"): 0.5,
    (SMALL_SEARCH, "Rehearsal"): 0.5,
}
"""What we want of a planner function on a traced model, by model (and recipe, where it is another one) and function."""
# RTN with data, RTN without, and the two with Hessians.
WHOLE_SIZE_RECIPES = ("rtn_w8a8_static", "rtn_fp8_dynamic", "gptq_w4a16", "sparsegpt_2of4")
HEAVY = ("torch", "transformers", "accelerate", "compressed_tensors", "numpy", "networkx", "pydantic")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCase:
    """Two commands and the ratios that we want, where we want one."""

    subject: str
    baseline: str
    commands: tuple[Sequence[str], Sequence[str]]
    rounds: int
    max_time: float | None = None
    max_rss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfs:
    """Every strategy on card after card."""

    strategies: int
    first: float
    """Seconds until each strategy was traced and simulated once."""
    what_ifs: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All that one run of the benchmarks found."""

    pairs: tuple[tuple[PairCase, Pair], ...]
    imported_by_help: tuple[str, ...]
    whole_size: dict[str, Usage]
    phases: dict[str, dict[str, float]]
    """Seconds of each part of a cold plan, by model."""
    simulations: dict[tuple[str, str], Spread]
    """Seconds of a planner function on a traced model, by model and function."""
    allocator: dict[str, Spread]
    """Seconds of a request to the caching allocator and its free, by recorded stream of requests."""
    what_ifs: WhatIfs


def pair_cases(folder: Path, quick: bool) -> Iterator[PairCase]:
    """The pairs; `folder` is for the files that the commands need and write."""
    rounds = 3 if quick else 9
    output = str(folder / "result.json")
    yield PairCase(
        subject="`planner --help`",
        baseline="`--help` of a one-command typer app",
        commands=((*PLANNER, "--help"), _child("typer_app.py", "--help")),
        rounds=rounds * 3,
        max_time=2.0,
    )
    yield PairCase(
        subject=f"cold plan, {SMALL}",
        baseline="`import torch, transformers` and a meta build of the model",
        commands=(_plan(SMALL, RECIPE, output), _child("bare_build.py", str(PRESETS / f"{SMALL}.json"))),
        rounds=rounds,
        max_time=1.5,
        max_rss=1.3,
    )
    yield PairCase(
        subject=f"cold plan, {LARGE}",
        baseline=f"cold plan, {SMALL}",
        commands=(_plan(LARGE, RECIPE, output), _plan(SMALL, RECIPE, output)),
        rounds=rounds,
        max_time=2.0,
    )
    for model in (SMALL, "qwen3-30b-a3b"):
        yield PairCase(
            subject=f"`planner graph`, {model}",
            baseline="`accelerate estimate-memory`'s code, same config",
            commands=(
                (*PLANNER, "graph", model, "--format", "json", "--output", output),
                _child("estimate_memory.py", _config_folder(model, folder)),
            ),
            rounds=rounds,
        )


def run_all(folder: Path, quick: bool, say: Callable[[str], None]) -> Results:
    """Measure everything, one thing after the other."""
    pairs = []
    for case in pair_cases(folder, quick):
        say(f"{case.subject} beside {case.baseline}")
        pairs.append((case, take_turns(*case.commands, case.rounds)))
    output = str(folder / "result.json")
    whole_size = {}
    for recipe in WHOLE_SIZE_RECIPES:
        say(f"whole size: {LARGE} {recipe}")
        whole_size[recipe] = run_process(_plan(LARGE, recipe, output))
    say("parts of a plan, and the simulation alone")
    return Results(
        pairs=tuple(pairs),
        imported_by_help=imported_by_help(),
        whole_size=whole_size,
        phases={model: _phases(model) for model in (SMALL, LARGE)},
        simulations=dict(_simulations("5" if quick else "20")),
        allocator=_allocator("5" if quick else "20"),
        what_ifs=WhatIfs(**json.loads(_output(_module("what_ifs", SMALL, RECIPE)))),
    )


def _phases(model: str) -> dict[str, float]:
    """Seconds of each part of one cold plan; the last part is what Python itself takes around them."""
    begun = perf_counter()
    laps: dict[str, float] = json.loads(_output(_module("phases", model, RECIPE, "0")))["laps"]
    return {**laps, "start and exit of the process": perf_counter() - begun - sum(laps.values())}


def _simulations(rounds: str) -> Iterator[tuple[tuple[str, str], Spread]]:
    for model in (SMALL, LARGE):
        found = json.loads(_output(_module("phases", model, RECIPE, rounds)))
        for function in FUNCTIONS:
            yield (model, function), Spread.of(found[function])
    found = json.loads(_output(_module("phases", SMALL, SEARCH, rounds, "no smallest card")))
    for function in ("simulate", "Rehearsal"):
        yield (SMALL_SEARCH, function), Spread.of(found[function])


def _allocator(rounds: str) -> dict[str, Spread]:
    measured = json.loads(_output(_module("allocator", rounds)))
    return {stream: Spread.of(seconds) for stream, seconds in measured.items()}


def imported_by_help() -> tuple[str, ...]:
    """Which of the heavy libraries `planner --help` imports."""
    script = (
        "import contextlib, io, sys\n"
        "from planner.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])\n"
        "print(*sys.modules)"
    )
    modules = _output((sys.executable, "-c", script)).split()
    return tuple(name for name in HEAVY if name in modules)


def _plan(model: str, recipe: str, output: str) -> Sequence[str]:
    return (*PLANNER, "plan", model, "--recipe", recipe, "--format", "json", "--output", output)


def _child(script: str, *arguments: str) -> Sequence[str]:
    return (sys.executable, str(CHILDREN / script), *arguments)


def _module(name: str, *arguments: str) -> Sequence[str]:
    return (sys.executable, "-m", f"tests.benchmarks.children.{name}", *arguments)


def _config_folder(model: str, folder: Path) -> str:
    """A folder with the preset's config.json, as transformers reads it from a local checkpoint."""
    home = folder / model
    home.mkdir(exist_ok=True)
    config = json.loads((PRESETS / f"{model}.json").read_text(encoding="utf-8"))["config"]
    (home / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(home)


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
