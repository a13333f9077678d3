#!/usr/bin/env python3
"""One real model_free_ptq on the CPU, from a checkpoint's files to the saved ones, its resident memory cut into phases.

    model_free_job.py FOLDER SCHEME --out job.json [--ignore PATTERN ...] [--converter NAME] [--workers N]

SCHEME is a preset's name or a QuantizationScheme as JSON. Each shard has the phases load, process and save.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"TQDM_DISABLE": "1", "LLM_COMPRESSOR_LOG_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
warnings.filterwarnings("ignore")

import resident
from phases import Phases, with_samples
from resident import MIB

PACKAGES = ("torch", "llmcompressor", "compressed-tensors", "transformers", "safetensors")
IGNORED = ("lm_head", "re:.*embed_tokens.*", "re:.*mlp.gate$")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a checkpoint, as make_models.py writes them")
    parser.add_argument("scheme", help="name of a preset, or a scheme as JSON")
    parser.add_argument("--out", required=True, type=Path, help="write the JSON object to this file")
    parser.add_argument("--ignore", nargs="*", default=list(IGNORED), help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="max_workers (the CPU takes one shard after the other)")
    parser.add_argument("--converter", choices=("fp8-block", "compressed-tensors"), help="applied before")
    parser.add_argument("--save-dir", type=Path, default=resident.FOLDER / "saved")
    return parser.parse_args()


def scheme_of(text: str) -> Any:
    """A preset's name as it is, JSON as a QuantizationScheme."""
    from compressed_tensors.quantization import QuantizationScheme

    return QuantizationScheme.model_validate(json.loads(text)) if text.startswith("{") else text


def converter_of(args: argparse.Namespace) -> Any:
    """The library's own converter of this name."""
    from compressed_tensors.entrypoints.convert import CompressedTensorsDequantizer, FP8BlockDequantizer

    if args.converter == "fp8-block":
        return FP8BlockDequantizer(targets=[r"re:.*(self_attn|mlp)\..*_proj$"])
    return CompressedTensorsDequantizer(str(args.model)) if args.converter else None


def watch(phases: Phases) -> None:
    """Hook what a shard goes through, so that it begins phases; the pass over meta tensors is `validate`."""
    entry = importlib.import_module("llmcompressor.entrypoints.model_free")
    load, save = entry.load_tensors_from_inverse_weight_map, entry.save_file
    numbers = iter(range(1, 10**6))

    def watched_load(weights: Any, device: Any) -> Any:
        if device.type == "meta":
            return load(weights, device)
        phases.begin("load", next(numbers))
        tensors = load(weights, device)
        phases.begin("process", (phases.open or {}).get("subgraph"))
        return tensors

    def watched_save(tensors: Any, path: Any) -> None:
        phases.begin("save", (phases.open or {}).get("subgraph"))
        save(tensors, path)
        phases.begin("between")

    entry.load_tensors_from_inverse_weight_map, entry.save_file = watched_load, watched_save


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the job; the output object."""
    phases, csv = Phases(tensors=False), args.out.with_suffix(".csv")
    with resident.sampled(csv):
        entry = importlib.import_module("llmcompressor.entrypoints.model_free")
        baseline = resident.status()
        resident.evict(args.model)
        watch(phases)
        shutil.rmtree(args.save_dir, ignore_errors=True)
        phases.begin("validate")
        named = {"ignore": args.ignore, "max_workers": args.workers, "converter": converter_of(args)}
        entry.model_free_ptq(str(args.model), str(args.save_dir), scheme=scheme_of(args.scheme), device="cpu", **named)
        phases.end()
        time.sleep(0.1)
    with_samples(phases.segments, resident.rows(csv))
    return {
        "args": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "baseline": baseline,
        "segments": phases.segments,
        "saved": {path.name: path.stat().st_size for path in sorted(args.save_dir.iterdir())},
    }


def main() -> None:
    """Measure, write the file, print one line a shard and phase."""
    args = parse_arguments()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = measure(args)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    base = result["baseline"]
    print(f"before the job {base['VmRSS'] / MIB:,.0f} MiB, {base['RssAnon'] / MIB:,.0f} anonymous; MiB above that:")
    for each in result["segments"]:
        figures = (
            each["hwm"] - base["VmRSS"],
            each["peak_anon"] - base["RssAnon"],
            each["peak_file"] - base["RssFile"],
        )
        print(f"{each['phase']:<9} {each.get('subgraph', ''):>3}", *(f"{figure / MIB:>9,.1f}" for figure in figures))


if __name__ == "__main__":
    main()
