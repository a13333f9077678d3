#!/usr/bin/env python3
"""What from_pretrained alone does to resident memory, and using the weights after it; one fresh process per way.

load_modes.py                    every way below, on the checkpoints that make_models.py wrote; load_modes.json
load_modes.py WAY CHECKPOINT     one of them, in this process
"""

import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
warnings.filterwarnings("ignore")

import resident
from resident import FOLDER, MIB

# Each way: the arguments of from_pretrained (a dtype by its name).
WAYS: dict[str, dict[str, Any]] = {
    "auto": {"dtype": "auto"},
    "touch": {"dtype": "auto"},  # afterwards read every weight
    "clone": {"dtype": "auto"},  # afterwards write every weight in place
    "float16": {"dtype": "float16"},
    "float32": {"dtype": "float32"},
    "nommap": {"dtype": "auto", "disable_mmap": True},
    "device_map": {"dtype": "auto", "device_map": "cpu"},
    "linearize": {"dtype": "auto"},  # afterwards linearize_moe, as oneshot does
    "linearized": {"dtype": "auto"},  # inside load_quantizable_moe
}
RUNS = [
    *((way, "qwen3-0.6b") for way in ("auto", "touch", "clone", "float16", "float32", "nommap", "device_map")),
    *((way, "qwen3-moe-1b") for way in ("auto", "linearize", "linearized")),
    ("auto", "llama-3.2-1b"),
]


def measure(way: str, checkpoint: Path) -> dict[str, Any]:
    """Load, use; peaks of both as bytes above what the process had before."""
    import torch
    from llmcompressor.modeling.moe.linearize import linearize_moe, load_quantizable_moe
    from transformers import AutoModelForCausalLM

    for name in ("llama", "qwen3", "qwen3_moe"):  # now, so that importing a model's code does not count as loading
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    csv = FOLDER / f".load.{os.getpid()}.csv"
    with resident.sampled(csv):
        before, started = resident.status(), time.monotonic()
        resident.reset_peak()
        with load_quantizable_moe() if way == "linearized" else nullcontext():
            model = AutoModelForCausalLM.from_pretrained(checkpoint, **WAYS[way])
        loaded, load_end = resident.status(), time.monotonic()
        resident.reset_peak()
        with torch.no_grad():
            use(way, model, linearize_moe)
        used, use_end = resident.status(), time.monotonic()
    readings = resident.rows(csv)
    csv.unlink()
    weights = {weight.data_ptr(): weight.nbytes for weight in model.parameters()}
    return {
        "way": way,
        "model": checkpoint.name,
        "weights": sum(weights.values()),
        "before": before["VmRSS"],
        "load": _figures(before, loaded, [row for row in readings if started <= row[0] <= load_end]),
        "use": _figures(before, used, [row for row in readings if load_end <= row[0] <= use_end]),
        "seconds": round(load_end - started, 2),
    }


def use(way: str, model: Any, linearize_moe: Any) -> None:
    """What this way does with the weights once they are loaded."""
    import torch

    if way == "linearize":
        linearize_moe(model)
    for weight in model.parameters() if way in ("touch", "clone") else ():
        if way == "touch":
            weight.view(torch.int16).max()
        else:
            weight.mul_(1.0)


def _figures(before: dict[str, int], after: dict[str, int], readings: list[resident.Row]) -> dict[str, int]:
    return {
        "peak": after["VmHWM"] - before["VmRSS"],
        "peak_anonymous": max([row[2] for row in readings] + [after["RssAnon"]]) - before["RssAnon"],
        "end_anonymous": after["RssAnon"] - before["RssAnon"],
        "end_file": after["RssFile"] - before["RssFile"],
    }


def main() -> None:
    """Every way, each in a process of its own; a table in MiB."""
    results = []
    for way, model in RUNS:
        command = [sys.executable, __file__, way, str(FOLDER / "models" / model)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{model} {way}: FAILED\n{done.stderr[-600:]}", file=sys.stderr)
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        results.append(result)
        parts = "; ".join(
            f"{part}: " + ", ".join(f"{name} {count / MIB:,.0f}" for name, count in result[part].items())
            for part in ("load", "use")
        )
        print(f"{model:<13} {way:<10} weights {result['weights'] / MIB:,.0f}; {parts}", flush=True)
    (FOLDER / "load_modes.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        main()
