"""Measure the cases with the real LLM Compressor and keep what the meter says.

    python -m tests.measured.record [--only WORD] [--missing]

The meter (tests/meter) runs llmcompressor.oneshot on a pretended CUDA device that counts allocations;
tests/meter/setup.sh makes its environment, which METER_VENV or --python name if it is elsewhere. Each run is kept as
the meter's JSON beside the command that made it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from planner.models.source import load_source
from tests.measured.cases import RUNS, Case, cases, meter_arguments

ROOT = Path(__file__).parent.parent.parent
METER = ROOT / "tests" / "meter" / "meter.py"
ENVIRONMENT = Path(os.environ.get("METER_VENV") or ROOT / ".instruments" / "meter-venv")


def main() -> int:
    """Record the asked-for cases; returns the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", default=ENVIRONMENT / "bin" / "python", help="of the meter's environment (%(default)s)"
    )
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only cases that are not recorded yet")
    arguments = parser.parse_args()
    if shutil.which(arguments.python) is None:
        parser.error(f"no python at {arguments.python}: run tests/meter/setup.sh first, or name it with --python")
    failed = 0
    for case in cases():
        if arguments.only in case.name and not (arguments.missing and case.recorded.exists()):
            failed += not record(case, str(arguments.python))
    return failed


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


def write(case: Case, command: str, measured: dict[str, object]) -> None:
    """Keep one run. One line per step keeps the file readable and its diffs small."""
    RUNS.mkdir(exist_ok=True)
    steps = ",\n".join(json.dumps(step) for step in measured.pop("steps"))  # type: ignore[attr-defined]
    head = json.dumps({"command": command, **measured}, indent=1)[:-2]
    case.recorded.write_text(f'{head},\n "steps": [\n{steps}\n]\n}}\n')


if __name__ == "__main__":
    raise SystemExit(main())
