"""Jobs whose process was measured with tests/hostmeter, from loading to saving, and what the plan says of each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from planner.compress.binding import make_program
from planner.compress.host_schema import Disk, Host, HostSetting, Loading
from planner.compress.program import Program
from planner.compress.recipes import load_recipe
from planner.job import Job, dtype_named
from planner.models.graph import ModelGraph
from planner.models.load import load_model
from planner.planning import plan_graph
from planner.recipe.specs import Recipe
from planner.sizing.disk import disk_of
from planner.sizing.host import host_of
from planner.sizing.host_facts import HostModel, host_model
from tests.measured.cases import SHIPPED

RUNS = Path(__file__).parent / "runs"
CHECKPOINT_DTYPE = dtype_named("bfloat16")
"""What tests/hostmeter/make_models.py writes."""
EXTRA = 5 * 10**9
"""load_offloaded_model keeps so much free; the recorded runs say how much it may use instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process: a checkpoint of make_models.py, a shipped recipe, and the other words of job.py."""

    checkpoint: str
    recipe: str
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        said = "".join(f"-{word.lstrip('-')}" if word.startswith("--") else word for word in self.words)
        return f"{self.checkpoint}-{self.recipe}{said.replace('samples', 's').replace('seq-len', 't')}"

    @property
    def recorded(self) -> Path:
        return RUNS / f"{self.name}.json"

    @property
    def recipe_path(self) -> Path:
        return SHIPPED / f"{self.recipe}.yaml"


def runs() -> Iterator[Run]:
    """Every process that was measured."""
    short = ("--samples", "4", "--seq-len", "256")
    qwen, llama, moe = "qwen3-0.6b", "llama-3.2-1b", "qwen3-moe-1b"
    yield Run(checkpoint=qwen, recipe="rtn_w8a8_static")
    yield Run(checkpoint="qwen3-0.6b-l2", recipe="gptq_w4a16")
    yield Run(checkpoint="qwen3-0.6b-l2", recipe="sparsegpt_2of4")
    yield Run(checkpoint="qwen3-moe-l3", recipe="rtn_w8a8_static")
    yield Run(checkpoint=llama, recipe="rtn_w8a8_static", words=("--samples", "2"))
    yield Run(checkpoint=qwen, recipe="rtn_w8a8_static", words=(*short, "--dtype", "float32"))
    yield Run(checkpoint=qwen, recipe="rtn_w8a8_static", words=(*short, "--dtype", "float16"))
    yield Run(checkpoint=qwen, recipe="rtn_w8a8_static", words=(*short, "--no-mmap"))
    yield Run(checkpoint="qwen3-0.6b-sharded", recipe="rtn_w8a8_static", words=short)
    yield Run(checkpoint=moe, recipe="rtn_w8a8_static", words=(*short, "--linearized"))
    yield Run(checkpoint=moe, recipe="rtn_w8a8_static", words=short)
    yield Run(checkpoint=qwen, recipe="gptq_w4a16", words=("--samples", "8", "--layers", "4"))
    yield Run(checkpoint=llama, recipe="sparsegpt_2of4", words=("--samples", "4", "--layers", "3"))
    yield Run(checkpoint=qwen, recipe="rtn_w4a16", words=short)
    yield Run(checkpoint=qwen, recipe="rtn_w8a8_static", words=(*short, "--budget", "600000000"))


@cache
def measured(run: Run) -> dict[str, Any]:
    """What was recorded."""
    found: dict[str, Any] = json.loads(run.recorded.read_text(encoding="utf-8"))
    return found


def phases(run: Run) -> dict[str, dict[str, int]]:
    """Each phase's most of each figure, under the plan's name: without data there is no pass over batches, and the
    job is done while the hostmeter waits for one."""
    found = dict(measured(run)["phases"])
    if not any(phase.phase == "prepare" for phase in predicted(run).phases):
        found["compress"] = found.pop("calibrate")
    return found


def job_of(run: Run) -> Job:
    """The job as the record's words say it."""
    args = measured(run)["args"]
    fields = {name: args[name] for name in ("samples", "seq_len", "batch_size", "layers", "linearized")}
    dtype = CHECKPOINT_DTYPE if args["dtype"] == "auto" else dtype_named(args["dtype"])
    return Job(progress_bars=False, dtype=dtype, **fields)


def loading_of(run: Run) -> Loading:
    """How the run loaded its checkpoint."""
    args = measured(run)["args"]
    return Loading(
        checkpoint_dtype=CHECKPOINT_DTYPE,
        mmap=not args["no_mmap"],
        available_ram_bytes=None if args["budget"] is None else args["budget"] + EXTRA,
        extra_cpu_bytes=EXTRA,
        files=measured(run)["checkpoint"]["files"],
    )


@cache
def built(run: Run) -> tuple[ModelGraph, Recipe, Program, HostModel]:
    """The model without weights, the recipe, both bound to each other, and what they mean for RAM."""
    graph, recipe = load_model(measured(run)["config"], job_of(run)), load_recipe(run.recipe)
    program, _ = make_program(graph, recipe, job_of(run))
    return graph, recipe, program, host_model(graph, program, job_of(run))


@cache
def predicted(run: Run) -> Host:
    """RAM as planned, for a process that computes on the CPU, as the hostmeter's does."""
    graph, recipe, _, model = built(run)
    plan = plan_graph(graph, recipe, job_of(run), without_gpu=True)
    return host_of(plan, model, loading_of(run), HostSetting(gpu=False))


@cache
def disk(run: Run) -> Disk:
    """Disk as planned."""
    graph, _, program, model = built(run)
    return disk_of(graph, program, job_of(run), model, loading_of(run))
