"""Run the calls with the real LLM Compressor and keep, of each, what the comparison needs.

    python -m tests.measured.modelfree.record [--only WORD] [--missing]

HOSTMETER, METER_VENV and CUDAMETER name checkpoints and environments, as for tests/hostmeter and tests/cudameter.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from planner.modelfree.read import read_checkpoint
from tests.measured.host.record import ENVIRONMENT, FOLDER, HOSTMETER
from tests.measured.modelfree.cases import CHECKPOINTS, FilesCase, files_cases

RUN = HOSTMETER.parent / "cudameter" / "run.sh"
ON_CARD = RUN.with_name("model_free.py")
SOURCES: dict[str, tuple[str, ...]] = {
    "moe-files": ("qwen3-moe-l3", "moe-files"),
    "moe-fused": ("qwen3-moe-l3", "moe-fused", "--fused"),
    "fp8-files": ("qwen3-0.6b-l2", "fp8-files", "--fp8", "--shard", "60000000"),
}
"""Words of make_files.py for checkpoints that make_models.py does not write."""


def main() -> int:
    """Record the asked-for calls; returns the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only calls whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only calls that are not recorded yet")
    arguments = parser.parse_args()
    failed = 0
    for case in files_cases():
        if arguments.only in case.name and not (arguments.missing and case.recorded.exists()):
            failed += not record(case)
    return failed


def record(case: FilesCase) -> bool:
    """One process; returns whether it worked."""
    folder = made(case.checkpoint)
    with tempfile.TemporaryDirectory(dir=FOLDER) as place:
        out = Path(place) / "job.json"
        words = [str(folder), case.scheme, *case.words, "--out", str(out)]
        python = str(ENVIRONMENT / "bin" / "python")
        if case.device == "gpu":
            command = [str(RUN), "--python", str(ON_CARD), *words]
        else:
            command = [python, str(HOSTMETER / "model_free_job.py"), *words, "--save-dir", str(Path(place) / "saved")]
        sm = {"PRETENDED_SM": str(case.sm)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **sm})
        if done.returncode or not out.exists():
            print(f"{case.name}: FAILED\n{done.stderr[-3000:]}", file=sys.stderr)
            return False
        kept = condensed(json.loads(out.read_text()))
    case.recorded.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"{case.name}: recorded", flush=True)
    return True


def made(checkpoint: str) -> Path:
    """The folder of a checkpoint, written if it is not there; its headers are kept beside the runs."""
    folder = FOLDER / "models" / checkpoint
    if not folder.exists():
        python = str(ENVIRONMENT / "bin" / "python")
        source, *_ = SOURCES.get(checkpoint, (checkpoint,))
        subprocess.run([python, HOSTMETER / "make_models.py", source], check=True)
        if checkpoint in SOURCES:
            subprocess.run([python, HOSTMETER / "make_files.py", *SOURCES[checkpoint]], check=True)
    files = read_checkpoint(folder, checkpoint).files
    kept = {
        "order": list(files),
        "files": {file: [[t.name, t.type, t.shape] for t in files[file]] for file in sorted(files)},
    }
    (CHECKPOINTS / f"{checkpoint}.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")
    return folder


def condensed(result: dict[str, Any]) -> dict[str, Any]:
    """The highest figures of each phase, where the process was read; the card's figures as they are."""
    if "segments" not in result:
        return result
    phases: dict[str, dict[str, int]] = {}
    for each in result.pop("segments"):
        most = phases.setdefault(each["phase"], {"resident": 0, "anonymous": 0})
        most["resident"] = max(most["resident"], each["hwm"])
        most["anonymous"] = max(most["anonymous"], each["peak_anon"])
    result["args"] = {key: value for key, value in result["args"].items() if key not in ("model", "out", "save_dir")}
    return {**result, "phases": phases}


if __name__ == "__main__":
    sys.exit(main())
