#!/usr/bin/env python3
"""One real model_free_ptq on PyTorch's own CUDA build, over the pretended driver. Started by `run.sh --python`.

    run.sh --python model_free.py FOLDER SCHEME --out job.json [--ignore PATTERN ...] [--workers N] [--converter NAME]

Writes, in bytes: what the library estimated for each file, what each file requested and reserved (one worker), and what
the job did. PRETENDED_TOTAL is the card.
"""

import argparse
import gc
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

os.environ |= {"TQDM_DISABLE": "1", "LLM_COMPRESSOR_LOG_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "hostmeter")]  # fakecuda is ours

import fakecuda
from model_free_job import IGNORED, converter_of, scheme_of

torch = fakecuda.torch
PACKAGES = ("torch", "llmcompressor", "compressed-tensors", "safetensors")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a checkpoint")
    parser.add_argument("scheme", help="name of a preset, or a scheme as JSON")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--ignore", nargs="*", default=list(IGNORED))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--converter", choices=("fp8-block", "compressed-tensors"))
    return parser.parse_args()


def figures() -> dict[str, int]:
    """Peaks since they were last reset."""
    found = torch.cuda.memory_stats()
    return {name: found.get(f"{name}_bytes.all.peak", 0) for name in ("requested", "allocated", "reserved")}


def hold_together(converter: Any, workers: int) -> None:
    """No worker goes on to save before all have quantized their file: threads meet as they meet, and without this a
    busy machine shows a third less than an idle one. The number of files must be a multiple of the workers'."""
    process, barrier = converter.process, threading.Barrier(workers)

    def watched(self: Any, tensors: Any) -> Any:
        is_rehearsal = next(iter(tensors.values())).is_meta
        done = process(self, tensors)
        if not is_rehearsal:
            barrier.wait()
        return done

    converter.process = watched


def watch(result: dict[str, Any], workers: int) -> None:
    """Hook the scheduler, for the library's estimates, and each file's job."""
    entry = importlib.import_module("llmcompressor.entrypoints.model_free")
    schedule, process = entry.exec_jobs_dynamic, entry._process_shard

    def watched_schedule(jobs: Any, devices: Any, max_workers: int, memory_estimates: Any, desc: str) -> Any:
        result["estimates"] = list(memory_estimates)
        return schedule(
            jobs=jobs, devices=devices, max_workers=max_workers, memory_estimates=memory_estimates, desc=desc
        )

    def watched_process(weights: Any, path: Any, converters: Any, device: Any) -> Any:
        gc.collect()  # modules of the file before hold their tensors until the collector runs, whenever that is
        torch.cuda.reset_peak_memory_stats()
        done = process(weights, path, converters, device)
        result["files"].append({"file": Path(path).name, **figures()})
        return done

    if workers > 1:
        hold_together(entry.ModelFreePtqConverter, workers)
    entry.exec_jobs_dynamic = watched_schedule
    if workers == 1:
        entry._process_shard = watched_process


def main() -> None:
    """Run the job; the card's figures go to the file, those of one worker file by file."""
    args = parse_arguments()
    fakecuda.install(True, 0)
    entry = importlib.import_module("llmcompressor.entrypoints.model_free")
    result: dict[str, Any] = {"estimates": [], "files": []}
    watch(result, args.workers)
    saved = args.out.with_suffix(".saved")
    named = {"ignore": args.ignore, "max_workers": args.workers, "converter": converter_of(args)}
    entry.model_free_ptq(str(args.model), str(saved), scheme=scheme_of(args.scheme), device="cuda:0", **named)
    last = figures()
    result |= {name: max([last[name], *(each[name] for each in result["files"])]) for name in last}
    result["saved"] = {path.name: path.stat().st_size for path in sorted(saved.iterdir())}
    result["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(saved)


if __name__ == "__main__":
    main()
