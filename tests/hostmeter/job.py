#!/usr/bin/env python3
"""One real LLM Compressor job on the CPU, from a checkpoint to a saved model, its resident memory cut into phases."""

import argparse
import gc
import importlib.metadata
import json
import os
import shutil
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Before the libraries are imported: they read these then.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ |= {"TQDM_DISABLE": "1", "LLM_COMPRESSOR_LOG_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error"}
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import resident
from phases import Phases, watch, with_samples
from resident import MIB

PACKAGES = ("torch", "llmcompressor", "compressed-tensors", "transformers", "safetensors", "datasets")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a checkpoint, as make_models.py writes them")
    parser.add_argument("recipe", help="LLM Compressor recipe (YAML)")
    parser.add_argument("--out", required=True, type=Path, help="write the JSON object to this file")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--layers", type=int, help="keep the first N layers (default: all)")
    parser.add_argument("--linearized", action="store_true", help="MoE: load with linear experts")
    parser.add_argument("--dtype", default="auto", help="dtype of from_pretrained, like float32 (default: the files')")
    parser.add_argument("--no-mmap", action="store_true", help="load with disable_mmap=True")
    parser.add_argument(
        "--budget", type=int, metavar="BYTES", help="load_offloaded_model: weights beyond so many bytes stay on disk"
    )
    parser.add_argument("--loader", action="store_true", help="give oneshot a DataLoader instead of a Dataset")
    parser.add_argument("--only-load", action="store_true", help="stop after from_pretrained")
    parser.add_argument("--evict", action="store_true", help="drop the checkpoint from the page cache first")
    parser.add_argument("--tensors", action="store_true", help="live tensors and malloc's books between phases")
    parser.add_argument("--smaps", type=float, default=0, metavar="S", help="every S seconds, the mappings by kind")
    parser.add_argument("--save-dir", type=Path, default=resident.FOLDER / "saved")
    return parser.parse_args()


def imported() -> dict[str, dict[str, int]]:
    """Import the libraries one after the other; resident memory after each."""
    steps = {"python": resident.status()}
    for name in ("torch", "transformers", "datasets", "llmcompressor", "tokenizers"):
        importlib.import_module(name)
        steps[name] = resident.status()
    # transformers imports a model's code when it is first used: before the job, so that it does not count as the job's
    for name in ("llama", "qwen3", "qwen3_moe"):
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    importlib.import_module("llmcompressor.pipelines.sequential.pipeline")
    steps["all"] = resident.status()
    return steps


def load(args: argparse.Namespace) -> Any:
    """The model as from_pretrained leaves it, with linear experts or partly on disk if asked for."""
    from compressed_tensors.offload import load_offloaded_model
    from llmcompressor.modeling.moe.linearize import load_quantizable_moe
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(args.model)
    if args.layers:
        config.num_hidden_layers = args.layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: args.layers]
    named: dict[str, Any] = {"disable_mmap": True} if args.no_mmap else {}
    with ExitStack() as stack:
        if args.budget is not None:
            shutil.rmtree(offload_folder(args), ignore_errors=True)
            named |= {"device_map": "auto_offload", "max_memory": {"cpu": args.budget}}
            named["offload_folder"] = str(offload_folder(args))
            stack.enter_context(load_offloaded_model())
        if args.linearized:
            drop_broken_aliases()
            stack.enter_context(load_quantizable_moe())
        return AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype, config=config, **named)


def drop_broken_aliases() -> None:
    """transformers' monkey_patching.py looks into every module that is imported, its own lazy aliases among them; those
    of image processors fail where torchvision is missing."""
    for name in [name for name in sys.modules if name.startswith("transformers.")]:
        try:
            dir(sys.modules[name])
        except ImportError:
            del sys.modules[name]


def offload_folder(args: argparse.Namespace) -> Path:
    """Where tensors that stay on disk are written once they change."""
    return args.save_dir.with_name(args.save_dir.name + "-offload")


def on_disk(folder: Path) -> dict[str, int]:
    """Real files below a folder, and symbolic links: how many, and their bytes."""
    paths = list(folder.iterdir()) if folder.exists() else []
    links = [path for path in paths if path.is_symlink()]
    files = [path for path in paths if not path.is_symlink()]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files), "links": len(links)}


def describe(model: Any) -> dict[str, Any]:
    """Class and size of a model; tied weights count once."""
    weights = {weight.data_ptr(): weight for weight in model.parameters()}.values()
    return {
        "architecture": type(model).__name__,
        "params": sum(weight.numel() for weight in weights),
        "bytes": sum(weight.nbytes for weight in weights),
        "dtype": str(model.dtype),
        "layers": model.config.num_hidden_layers,
    }


def data(args: argparse.Namespace, vocabulary: int) -> Any:
    """Random tokens, as a Dataset or a DataLoader."""
    import datasets
    import torch

    ids = torch.randint(10, vocabulary - 10, (args.samples, args.seq_len))
    if args.loader:
        rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
        return torch.utils.data.DataLoader(rows, batch_size=args.batch_size)
    return datasets.Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})


def tokenizer() -> Any:
    """oneshot wants a tokenizer when it gets a dataset; it never uses this one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")


def compress(args: argparse.Namespace, phases: Phases, model: Any) -> None:
    """oneshot, save included, in phases."""
    from llmcompressor import oneshot

    phases.begin("data")
    samples, words = data(args, model.config.vocab_size), tokenizer()
    watch(phases)
    shutil.rmtree(args.save_dir, ignore_errors=True)
    phases.begin("setup")
    oneshot(
        model=model,
        tokenizer=words,
        recipe=args.recipe,
        dataset=samples,
        num_calibration_samples=args.samples,
        max_seq_length=args.seq_len,
        batch_size=args.batch_size,
        output_dir=str(args.save_dir),
    )


def aftermath(phases: Phases) -> None:
    """What stays resident when the job is over: with the cycles collected, and malloc's free pages given back."""
    for phase, act in (("end", lambda: None), ("collect", gc.collect), ("trim", resident.trim)):
        phases.begin(phase)
        act()
        time.sleep(0.2)
    phases.end()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the job; the output object, which README.md describes."""
    phases, csv = Phases(args.tensors), args.out.with_suffix(".csv")
    with resident.sampled(csv, args.smaps):
        steps = imported()
        import torch

        torch.manual_seed(0)
        if args.evict:
            resident.evict(args.model)
        phases.begin("load")
        model = load(args)
        about = describe(model)
        if not args.only_load:
            compress(args, phases, model)
        aftermath(phases)
    with_samples(phases.segments, resident.rows(csv))
    saved = {} if args.only_load else {path.name: path.stat().st_size for path in args.save_dir.iterdir()}
    return {
        "args": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "model": about,
        "baseline": steps["all"],
        "imports": steps,
        "segments": phases.segments,
        "marks": phases.marks,
        "saved": saved,
        "offload": on_disk(offload_folder(args)),
    }


def table(result: dict[str, Any]) -> str:
    """One line per phase, in MiB: peaks less what the process had before the job."""
    base, model = result["baseline"], result["model"]
    lines = [
        f"{model['architecture']}: {model['layers']} layers, {model['bytes'] / MIB:,.0f} MiB of weights",
        f"before the job {base['VmRSS'] / MIB:,.0f} MiB resident, {base['RssAnon'] / MIB:,.0f} of them anonymous",
        f"{'phase':<10} {'times':>5} {'seconds':>8} {'resident':>9} {'anonymous':>10} {'file':>8}   MiB above that",
    ]
    grouped: dict[str, list[dict[str, Any]]] = {}
    for segment in result["segments"]:
        grouped.setdefault(segment["phase"], []).append(segment)
    for phase, members in grouped.items():
        seconds = sum(each["end"] - each["start"] for each in members)
        columns = (("hwm", "VmRSS"), ("peak_anon", "RssAnon"), ("peak_file", "RssFile"))
        rss, anon, file = ((max(each[name] for each in members) - base[was]) / MIB for name, was in columns)
        lines.append(f"{phase:<10} {len(members):>5} {seconds:>8.1f} {rss:>9,.0f} {anon:>10,.0f} {file:>8,.0f}")
    return "\n".join(lines)


def main() -> None:
    """Measure, write the file, print the table."""
    args = parse_arguments()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = measure(args)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
