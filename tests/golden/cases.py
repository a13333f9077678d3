"""Plans that are kept as files: what they are of, and how a plan becomes one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan, Step
from planner.job import Job
from planner.planning import plan_graph
from planner.recipe.files import list_recipes
from tests.built import graph_of

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One kept plan."""

    model: str
    recipe: str
    options: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def name(self) -> str:
        return "-".join([self.model, self.recipe, *(f"{key}{value}" for key, value in self.options)])

    @property
    def path(self) -> Path:
        return HERE / f"{self.name}.json"

    @property
    def plan(self) -> Plan:
        job = Job(**dict(self.options))
        return plan_graph(graph_of(self.model, job), load_recipe(self.recipe), job)


def goldens() -> Iterator[Golden]:
    """Every shipped recipe on Llama-3-8B, a mixture of experts, and a vision model that sees images."""
    yield from (
        Golden(model="mixtral-8x7b" if recipe.name.startswith("reap") else "llama-3-8b", recipe=recipe.name)
        for recipe in list_recipes()
    )
    yield Golden(model="qwen3-30b-a3b", recipe="gptq_w4a16")
    yield Golden(model="qwen2.5-vl-7b", recipe="gptq_w4a16", options=(("images", 1),))


def compact(plan: Plan) -> dict[str, Any]:
    """The plan's distinct steps, each under its first unit with the number of its likes."""
    rows: dict[str, dict[str, Any]] = {}
    for step in plan.steps:
        row = _row(step)
        key = json.dumps(row)
        rows.setdefault(key, {"unit": step.unit, "times": 0, **row})["times"] += 1
    return {
        "gpu_peak": plan.gpu.peak_bytes,
        "gpu_peak_allocated": plan.gpu.peak_allocated_bytes,
        "gpu_peak_step": plan.gpu.peak_step,
        "cpu_peak": plan.cpu.peak_bytes,
        "cpu_peak_step": plan.cpu.peak_step,
        "rule_of_thumb": plan.rule_of_thumb.model_dump(),
        "steps": list(rows.values()),
    }


def as_text(kept: dict[str, Any]) -> str:
    """JSON with a line per step: small files, small diffs."""
    steps = ",\n".join(f"  {json.dumps(step)}" for step in kept["steps"])
    head = json.dumps({key: value for key, value in kept.items() if key != "steps"}, indent=1)
    return f'{head[:-2]},\n "steps": [\n{steps}\n ]\n}}\n'


def _row(step: Step) -> dict[str, Any]:
    return {
        "phase": step.phase,
        "exact": step.exact,
        "gpu": step.gpu.peak_bytes,
        "gpu_end": step.gpu.end_bytes,
        "gpu_kinds": step.gpu.by_kind,
        "cpu": step.cpu.peak_bytes,
    }
