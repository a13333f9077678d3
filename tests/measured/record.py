"""Measure the cases with the real LLM Compressor and keep what the meter says.

    python -m tests.measured.record [--only WORD] [--missing]

The meter (tests/meter) runs llmcompressor.oneshot on a pretended CUDA device that counts allocations;
tests/meter/setup.sh makes its environment, which METER_VENV or --python name if it is elsewhere. Each run is kept as
the meter's JSON beside the command that made it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from planner.models.source import load_source
from tests.measured.cases import RUNS, Case, cases, meter_arguments
from tests.measured.recording import ROOT, record_all

METER = ROOT / "tests" / "meter" / "meter.py"


def record(case: Case, python: str) -> bool:
    """Run one case and write its file; returns whether it worked."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(load_source(case.model).config))
        words = [str(config), "--recipe", str(case.recipe_path), *meter_arguments(case.job)]
        out = Path(folder) / "out.json"
        command = [python, str(METER), *words, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            print(f"{case.name}: FAILED\n{done.stderr[-3000:]}", file=sys.stderr)
            return False
        shown = ["meter.py", f"{case.model_name}/config.json", "--recipe", case.recipe_path.name, *words[3:]]
        write(case, " ".join(shown), json.loads(out.read_text()))
    print(f"{case.name}: recorded")
    return True


def write(case: Case, command: str, measured: dict[str, Any]) -> None:
    """Keep one run. One line per step keeps the file readable and its diffs small."""
    RUNS.mkdir(exist_ok=True)
    steps = ",\n".join(json.dumps(step) for step in measured.pop("steps"))
    head = json.dumps({"command": command, **measured}, indent=1)[:-2]
    case.recorded.write_text(f'{head},\n "steps": [\n{steps}\n]\n}}\n')


if __name__ == "__main__":
    raise SystemExit(record_all(cases(), record, __doc__))
