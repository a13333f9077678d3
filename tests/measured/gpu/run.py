"""Everything that wants measuring on a CUDA GPU, in one go: microbenchmarks, then whole jobs.

    python -m tests.measured.gpu.run --out FOLDER [--short] [--minutes 9] [--only WORD] [--dry-run]

Run it in an environment with `planner[measure]`; it needs no network. Nothing that is done already
in FOLDER is done again, so it can be called until it says that nothing is left. FOLDER gets
results.json (machine, microbenchmarks, one line per job) and a run file per job for
`planner accuracy`, which holds requested, allocated, reserved and the whole card beside the plan. `--short` is what
the plan's open assumptions need, and no more: the context's size, the workspaces of cuBLAS and cuSOLVER, ten jobs.
`--dry-run` runs the benchmarks with tiny sizes on the CPU and checks that every
job's model and recipe can be read, on a machine without a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.measure.files import recipe_text
from planner.models.source import load_source
from tests.measured.gpu.micro import BENCHMARKS

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
OWN = (HERE / "recipes", HERE.parent / "recipes")
TAIL = 2000

LLAMA = ("rtn_w8a8_static", "rtn_fp8_static", "rtn_nvfp4", "gptq_w4a16", "gptq_w4a16_no_actorder")
LLAMA += ("gptq_w4a16_no_batching", "sparsegpt_2of4", "awq_w4a16", "smoothquant_gptq_w8a8")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuJob:
    """One `planner measure`."""

    model: str
    recipe: str
    options: str
    """As on the command line."""

    @property
    def name(self) -> str:
        words = self.options.replace(" --", "-").replace("--", "").replace(" ", "")
        return f"{self.model}-{self.recipe}-{words}"

    def recipe_argument(self) -> str:
        """A file beside this script, or a shipped recipe's name."""
        own = (folder / f"{self.recipe}.yaml" for folder in OWN)
        return next((str(path) for path in own if path.exists()), self.recipe)

    def command(self, out: Path) -> list[str]:
        words = [sys.executable, "-m", "planner", "measure", self.model, "--recipe", self.recipe_argument()]
        return [*words, *self.options.split(), "--force", "--output", str(out)]


def jobs() -> Iterator[GpuJob]:
    """The most telling first, in case that time runs out."""
    for recipe in LLAMA:
        yield GpuJob(model="llama-3-8b", recipe=recipe, options="--layers 2 --samples 4 --seq-len 2048")
    # a reference cycle may hold one more batch until Python collects: how much of the difference is that?
    yield GpuJob(model="llama-3-8b", recipe="gptq_w4a16", options="--layers 2 --samples 4 --seq-len 2048 --collect")
    for recipe in ("gptq_w4a16", "rtn_w8a8_static"):
        yield GpuJob(model="qwen3-30b-a3b", recipe=recipe, options="--layers 2 --samples 4")
        images = "--images 1 --image-size 644x644"
        yield GpuJob(model="qwen2.5-vl-7b", recipe=recipe, options=f"--layers 2 --samples 4 {images}")
    yield GpuJob(model="llama-2-70b", recipe="gptq_w4a16", options="--layers 1 --samples 4")
    yield GpuJob(model="deepseek-r1", recipe="rtn_w8a8_static", options="--layers 4 --samples 2 --seq-len 512")
    for seq_len, batch in ((512, 1), (512, 4), (2048, 4)):
        size = f"--layers 2 --samples {4 * batch} --seq-len {seq_len} --batch-size {batch}"
        yield from (GpuJob(model="llama-3-8b", recipe=recipe, options=size) for recipe in LLAMA)
    yield GpuJob(model="deepseek-r1", recipe="gptq_w4a16", options="--layers 4 --samples 2 --seq-len 512")


SHORT = ("matmul_bf16", "matmul_fp32", "linear_with_bias_bf16", "cholesky_ex", "cholesky_upper", "cholesky_inverse_out")
"""Micro benchmarks of `--short`."""
SHORT_JOBS = 10


def plan_of_work(short: bool) -> tuple[list[str], list[GpuJob]]:
    """Micro benchmarks and jobs, in their order."""
    names, wanted = ["cuda_context", *(SHORT if short else BENCHMARKS)], list(jobs())
    return names, wanted[:SHORT_JOBS] if short else wanted


class Session:
    """One call of this script: what is done already, and how long there is for the rest."""

    def __init__(self, folder: Path, minutes: float, only: str, dry_run: bool, short: bool = False) -> None:
        self.folder, self.only, self.dry_run, self.short = folder, only, dry_run, short
        self.deadline = time.monotonic() + 60 * minutes
        self.path = folder / "results.json"
        self.results: dict[str, Any] = {"schema_version": 1, "dry_run": dry_run, "machine": {}, "micro": {}, "jobs": {}}
        if self.path.exists():
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["dry_run"] == dry_run:  # a dry run is not a result
                self.results = found
        self.left: list[str] = []

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results["machine"] = machine()
        names, wanted = plan_of_work(self.short)
        for name in names:
            self._once("micro", name, lambda name=name: self._micro(name))
        for job in wanted:
            self._once("jobs", job.name, lambda job=job: self._dry(job) if self.dry_run else self._job(job))

    def _once(self, part: str, name: str, work: Any) -> None:
        done = self.results[part].get(name, {})
        if self.only not in name or done.get("returncode") == 0:
            return
        if time.monotonic() >= self.deadline:
            self.left.append(name)
            return
        started = time.monotonic()
        found = work()
        self.results[part][name] = {**found, "seconds": round(time.monotonic() - started, 1)}
        self._write()
        print(f"{part} {name}: {found.get('returncode')}, {time.monotonic() - started:.0f} s", flush=True)

    def _micro(self, name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.measured.gpu.micro", name, *(["--dry-run"] if self.dry_run else [])]
        done = self._process(command)
        lines = [json.loads(line) for line in done["output"].splitlines() if line.startswith("{")]
        return {"returncode": done["returncode"], "results": lines, "error": done["error"]}

    def _job(self, job: GpuJob) -> dict[str, Any]:
        out = self.folder / f"{job.name}.json"
        done = self._process(job.command(out))
        return {"returncode": done["returncode"], "file": out.name, "output": done["output"], "error": done["error"]}

    def _dry(self, job: GpuJob) -> dict[str, Any]:
        """Whether the job's model and recipe can be read here."""
        try:
            load_source(job.model)
            recipe_text(job.recipe_argument())
        except PlannerError as error:
            return {"returncode": 2, "command": job.command(Path("run.json"))[1:], "error": str(error)}
        return {"returncode": 0, "command": job.command(Path("run.json"))[1:]}

    def _process(self, command: list[str]) -> dict[str, Any]:
        """Run it, at most as long as there is time; a run file keeps what was measured until then."""
        seconds = max(1.0, self.deadline - time.monotonic())
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT, env=environment
            )
        except subprocess.TimeoutExpired:
            return {"returncode": None, "output": "", "error": "no time left"}
        return {"returncode": done.returncode, "output": done.stdout, "error": done.stderr[-TAIL:]}

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def machine() -> dict[str, Any]:
    """Versions and card, without making a CUDA context in this process."""
    from planner.measure.checks import driver_version, versions

    return {"versions": versions(), "driver": driver_version(), "cores": os.cpu_count()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=60.0, help="start nothing after this, end what runs")
    parser.add_argument("--only", default="", help="only what has this in its name")
    parser.add_argument("--short", action="store_true", help="context, workspaces of cuBLAS and cuSOLVER, ten jobs")
    parser.add_argument("--dry-run", action="store_true", help="for a machine without a GPU")
    options = parser.parse_args(arguments)
    session = Session(options.out, options.minutes, options.only, options.dry_run, options.short)
    session.run()
    print(f"left: {', '.join(session.left) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
