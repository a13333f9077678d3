"""Measure the cases with the real LLM Compressor and keep what the meter says.

    python -m tests.measured.record --python METER_PYTHON --meter path/to/meter.py [--only WORD] [--missing]

The meter runs llmcompressor.oneshot on a pretended CUDA device that counts allocations; it needs
an environment of its own. Each run is kept as the meter's JSON beside the command that made it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from planner.models.source import load_source
from tests.measured.cases import RUNS, Case, cases, meter_arguments


def main() -> int:
    """Record the asked-for cases; returns the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of the meter's environment")
    parser.add_argument("--meter", required=True, help="path of meter.py")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only cases that are not recorded yet")
    arguments = parser.parse_args()
    failed = 0
    for case in cases():
        if arguments.only in case.name and not (arguments.missing and case.recorded.exists()):
            failed += not record(case, arguments.python, arguments.meter)
    return failed


def record(case: Case, python: str, meter: str) -> bool:
    """Run one case and write its file; returns whether it worked."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(load_source(case.model).config))
        words = [str(config), "--recipe", str(case.recipe_path), *meter_arguments(case.job)]
        out = Path(folder) / "out.json"
        done = subprocess.run([python, meter, *words, "--out", str(out)], capture_output=True, text=True, check=False)
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
