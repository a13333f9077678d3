"""Run the cases with the real LLM Compressor on PyTorch's own CUDA build, and keep each step's figures.

    python -m tests.measured.cuda.record [--only WORD] [--missing]

CUDAMETER names the folder that tests/cudameter/setup.sh made, if it is not .instruments/cudameter.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from planner.models.source import load_source
from tests.measured.cases import meter_arguments
from tests.measured.cuda.cases import RUNS, CudaCase, cuda_cases

RUN = Path(__file__).parent.parent.parent / "cudameter" / "run.sh"
FIGURES = ("peak_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "alloc_retries")


def main() -> int:
    """Record the asked-for cases; returns the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only cases that are not recorded yet")
    arguments = parser.parse_args()
    failed = 0
    for case in cuda_cases():
        if arguments.only in case.name and not (arguments.missing and case.recorded.exists()):
            failed += not record(case)
    return failed


def record(case: CudaCase) -> bool:
    """Run one case and write its file; returns whether it worked."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        done = run(case, out)
        if done.returncode or not out.exists():
            print(f"{case.name}: FAILED\n{done.stderr[-2000:]}", file=sys.stderr)
            return False
        write(case, json.loads(out.read_text()))
    print(f"{case.name}: recorded", flush=True)
    return True


def run(case: CudaCase, out: Path, total: int | None = None) -> subprocess.CompletedProcess[str]:
    """The job on a card of `total` bytes as CUDA sees it, or on the case's own."""
    config = out.with_name("config.json")
    config.write_text(json.dumps(load_source(case.model).config))
    words = [str(RUN), str(config), "--recipe", str(case.recipe_path), *_words(case), "--out", str(out)]
    card = {"PRETENDED_TOTAL": str(total or case.job.gpu_memory_bytes), "PRETENDED_SM": str(case.sm)}
    if case.cards > 1:
        card |= {"PRETENDED_DEVICES": str(case.cards), "CUDAMETER_SECOND": str(case.second)}
    return subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **card})


def _words(case: CudaCase) -> list[str]:
    return [*meter_arguments(case.job), *(["--rank", str(case.rank)] if case.rank else [])]


def write(case: CudaCase, measured: dict[str, Any]) -> None:
    """Keep the figures of one run, a step a line."""
    RUNS.mkdir(exist_ok=True)
    command = f"PRETENDED_TOTAL={case.job.gpu_memory_bytes} PRETENDED_SM={case.sm} run.sh {case.model_name}/config.json"
    cards = f"PRETENDED_DEVICES={case.cards} CUDAMETER_SECOND={case.second} " if case.cards > 1 else ""
    shown = " ".join([cards + command, "--recipe", case.recipe_path.name, *_words(case)])
    steps = ",\n".join(json.dumps(_step(step)) for step in measured["steps"])
    head = json.dumps({"command": shown, "versions": measured["versions"]}, indent=1)[:-2]
    case.recorded.write_text(f'{head},\n "steps": [\n{steps}\n]\n}}\n')


def _step(step: dict[str, Any]) -> dict[str, object]:
    names = ("modifier", "subgraph", "of", "phase")
    gpu, second = step["gpu"], step.get("second_gpu")
    kept = {**{name: step[name] for name in names}, **{name: gpu[name] for name in FIGURES}}
    return {**kept, "second_gpu": {name: second[name] for name in FIGURES}} if second else kept


if __name__ == "__main__":
    raise SystemExit(main())
