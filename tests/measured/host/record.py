"""Measure the runs with the real LLM Compressor and keep, of each, what the comparison needs.

    python -m tests.measured.host.record [--only WORD] [--missing]

tests/hostmeter runs `llmcompressor.oneshot` on the CPU, in the environment that tests/meter/setup.sh makes (METER_VENV
or --python name it elsewhere), and reads its process's resident memory. HOSTMETER names where checkpoints lie.
"""

import json
import os
import platform
import shlex
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.measured.host.cases import Run, runs
from tests.measured.recording import ROOT, record_all

HOSTMETER = ROOT / "tests" / "hostmeter"
FOLDER = Path(os.environ.get("HOSTMETER") or ROOT / ".instruments" / "hostmeter")
KEPT = ("args", "versions", "model", "baseline", "saved", "offload")
ALWAYS = ("--tensors", "--evict")
"""The checkpoint is read from disk, as after a reboot: what one read brings in does not depend on how it was cached."""
FIGURES = {"resident": "hwm", "anonymous": "peak_anon", "file": "peak_file"}


def record(run: Run, python: str) -> bool:
    """One process; returns whether it worked."""
    checkpoint = FOLDER / "models" / run.checkpoint
    if not checkpoint.exists():
        subprocess.run([python, HOSTMETER / "make_models.py", run.checkpoint], check=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        out, saved = Path(folder) / "job.json", Path(folder) / "saved"
        words = [str(checkpoint), str(run.recipe_path), *run.words]
        command = [python, HOSTMETER / "job.py", *words, "--out", str(out), "--save-dir", str(saved), *ALWAYS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            print(f"{run.name}: FAILED\n{done.stderr[-3000:]}", file=sys.stderr)
            return False
        kept = condensed(run, json.loads(out.read_text()), checkpoint)
        kept["saved_headers"] = {path.name: header(path) for path in saved.glob("*.safetensors")}
    run.recorded.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"{run.name}: recorded", flush=True)
    return True


def condensed(run: Run, result: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """The command, what it ran on, and each phase's highest figures."""
    args = {name: value for name, value in result["args"].items() if name not in ("model", "recipe", "out", "save_dir")}
    words = ["job.py", f"models/{run.checkpoint}", run.recipe_path.name, *run.words, *ALWAYS]
    files = list(checkpoint.glob("*.safetensors"))
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return {
        "command": shlex.join(words),
        "machine": {"kernel": platform.release().split("-")[0], "libc": " ".join(platform.libc_ver())},
        **{name: result[name] for name in KEPT},
        "args": args,
        "checkpoint": {"files": len(files), "bytes": sum(f.stat().st_size - header(f) for f in files)},
        "config": config,
        "phases": phases(result["segments"]),
        "malloc": {mark["after"] or "": mark["malloc"]["free_rest"] for mark in result["marks"]},
    }


def phases(segments: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """The most of each figure in each phase, in bytes."""
    found: dict[str, dict[str, int]] = {}
    for segment in segments:
        most = found.setdefault(segment["phase"], dict.fromkeys(FIGURES, 0))
        most |= {name: max(most[name], segment[key]) for name, key in FIGURES.items()}
    return found


def header(path: Path) -> int:
    """Bytes of a safetensors file before its tensors: the length, and the names."""
    with path.open("rb") as file:
        return int(8 + struct.unpack("<Q", file.read(8))[0])


if __name__ == "__main__":
    sys.exit(record_all(runs(), record, __doc__))
