#!/usr/bin/env python3
"""Run the real llmcompressor.oneshot on a counting device and report its memory, step by step."""

import argparse
import gc
import importlib.metadata
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

if not {"--verbose", "--progress-bars"} & set(sys.argv):
    os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported, and torch imports it

import fakecuda  # before torch
import torch

SCHEMA = 1
GIB = 2**30


def parse_arguments(argv=None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, epilog="All byte figures are requested bytes unless called allocated. See README.md."
    )
    p.add_argument("config", help="config.json, a folder with one, or MODEL_TYPE[:key=value,...]")
    p.add_argument("--recipe", required=True, help="LLM Compressor recipe (YAML), passed to oneshot as it is")
    model = p.add_argument_group("model")
    model.add_argument("--layers", type=int, help="keep the first N text decoder layers (default: all)")
    model.add_argument("--vision-layers", type=int, help="keep the first N vision layers (default: all)")
    model.add_argument(
        "--linearized",
        action="store_true",
        help="MoE: start from linear experts, as load_quantizable_moe leaves them; else oneshot converts them",
    )
    model.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    model.add_argument(
        "--device-map",
        default="cpu",
        choices=["cpu", "cuda", "auto_offload"],
        help="from_pretrained's; auto_offload: load_offloaded_model's, what the CPU has no room for stays on the disk",
    )
    model.add_argument("--cpu-gib", type=float, help="room on the CPU for auto_offload (max_memory)")
    data = p.add_argument_group("calibration data")
    data.add_argument("--samples", type=int, default=4)
    data.add_argument("--seq-len", type=int, default=2048, help="tokens per sample, image tokens included")
    data.add_argument("--batch-size", type=int, default=1)
    data.add_argument("--images", type=int, default=0, help="images per sample")
    data.add_argument(
        "--loss-mask", action="store_true", help="samples carry a mask of all their tokens: use_loss_mask"
    )
    data.add_argument("--image-size", default="448x448", help="HEIGHTxWIDTH in pixels, for towers that keep the size")
    data.add_argument("--audios", type=int, default=0, help="audio clips per sample")
    data.add_argument("--audio-seconds", type=int, default=30, help="length of each")
    job = p.add_argument_group("oneshot")
    job.add_argument("--pipeline", choices=["independent", "sequential", "basic", "datafree"], default="independent")
    job.add_argument("--sequential-targets", help="comma-separated module classes or patterns")
    job.add_argument("--targets-per-subgraph", type=int, default=1)
    job.add_argument("--offload-device", default="cpu", help="sequential_offload_device: cpu or cuda")
    job.add_argument("--no-propagate-error", action="store_true")
    job.add_argument("--no-calibrate-all-experts", action="store_true")
    job.add_argument("--prefetch", action="store_true")
    job.add_argument("--progress-bars", action="store_true", help="on, as users have them; else TQDM_DISABLE=1")
    job.add_argument("--ranks", type=int, default=0, help="one rank of a torchrun job of N (0: no torchrun)")
    job.add_argument("--rank", type=int, default=0, help="which one")
    job.add_argument("--save", action="store_true", help="also save the compressed model (to a temporary folder)")
    meter = p.add_argument_group("measurement")
    meter.add_argument(
        "--mode",
        default="shape",
        choices=["shape", "real"],
        help="shape: compute nothing, full-size models; real: compute on the CPU, tiny models",
    )
    meter.add_argument(
        "--gpu-memory-gib", type=float, default=80.0, help="size of the device, all of it free at the start"
    )
    meter.add_argument(
        "--top", type=int, default=0, help="list the N largest live device allocations at each step's peak"
    )
    meter.add_argument("--table", action="store_true", help="print a table instead of the JSON object")
    meter.add_argument("--out", help="write the JSON object to this file")
    meter.add_argument("--verbose", action="store_true", help="show LLM Compressor's log and progress bars")
    return p.parse_args(argv)


def tokenizer():
    """oneshot wants a tokenizer when it gets a dataset; it never uses this one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")


def oneshot_arguments(args, model, loader) -> dict:
    """The keyword arguments of llmcompressor.oneshot for this job."""
    import models

    kwargs = {
        "model": model,
        "tokenizer": tokenizer(),
        "recipe": args.recipe,
        "dataset": loader,
        "pipeline": args.pipeline,
        "num_calibration_samples": own_samples(args),
        "max_seq_length": args.seq_len,
        "batch_size": args.batch_size,
        "moe_calibrate_all_experts": not args.no_calibrate_all_experts,
        "propagate_error": not args.no_propagate_error,
        "sequential_prefetch": args.prefetch,
        "use_loss_mask": args.loss_mask,
        "sequential_offload_device": args.offload_device,
        "sequential_targets_per_subgraph": args.targets_per_subgraph,
    }
    if args.sequential_targets:
        kwargs["sequential_targets"] = args.sequential_targets.split(",")
    if args.save:
        kwargs["output_dir"] = models.temporary_folder()
    return kwargs


def own_samples(args) -> int:
    """The samples of this process: all, or the rank's part."""
    import ranks

    return ranks.samples(args.samples, args.ranks, args.rank) if args.ranks else args.samples


def calibration_data(args):
    """The samples that this process calibrates with."""
    import batches

    return batches.Data(
        samples=own_samples(args),
        seq_len=args.seq_len,
        batch_size=args.batch_size,
        images=args.images,
        image_size=tuple(int(side) for side in args.image_size.lower().split("x")),
        loss_mask=args.loss_mask,
        audios=args.audios,
        audio_seconds=args.audio_seconds,
    )


def quiet(verbose: bool) -> None:
    """Keep logs and progress bars off the terminal unless asked for. Before the libraries load."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # weights are loaded in their order, and by the thread that counts
    if not verbose:
        os.environ["LLM_COMPRESSOR_LOG_LEVEL"] = "ERROR"
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
        warnings.filterwarnings("ignore")
        logging.getLogger("torch.fx").setLevel(logging.ERROR)


def measure(args) -> dict:
    """Build the model and the data, run oneshot, return the report."""
    shape = args.mode == "shape"
    fakecuda.install(shape, int(args.gpu_memory_gib * GIB))
    quiet(args.verbose)
    import kernels

    kernels.claim_triton()
    import batches
    import models
    import steps
    from llmcompressor import oneshot

    kernels.replace_kernels(shape)
    if shape:
        kernels.shorten_column_loops()
        kernels.shorten_searches()
        kernels.replace_mask_readers()
    torch.manual_seed(0)

    config = models.load_config(args.config)
    models.truncate(models.text_config(config), args.layers)
    if models.vision_config(config) is not None:
        models.truncate(models.vision_config(config), args.vision_layers)
    if experts := models.num_experts(config):
        fakecuda.ext.set_selected_share(1 / experts)
    dtype = getattr(torch, args.dtype)
    model = models.build(config, dtype, shape, args.device_map, int((args.cpu_gib or 0) * GIB))
    gc.collect()
    gc.freeze()  # the collections during the run need not look at the libraries and the model
    if args.linearized:
        models.linearize(model)  # not frozen: REAP drops experts, and a collection finds them
    loader = batches.loader(config, dtype, calibration_data(args))
    about_model = models.describe(model)

    if args.ranks:
        import ranks

        ranks.join(args.ranks, args.rank)
    steps.label_allocations()
    fakecuda.ext.set_trace(bool(args.top))
    recorder = steps.Recorder(args.top)
    steps.watch(recorder)
    started = time.time()
    oneshot(**oneshot_arguments(args, model, loader))
    return report(args, about_model, recorder.steps, time.time() - started)


def report(args, about_model, steps, seconds) -> dict:
    """The output object; README.md describes its fields."""
    packages = ("torch", "llmcompressor", "compressed-tensors", "transformers")
    job = {k: v for k, v in vars(args).items() if k not in ("out", "table", "top", "verbose")}
    job["progress_bars"] = "TQDM_DISABLE" not in os.environ
    for name in ("config", "recipe"):
        job[name] = Path(job[name]).name
    return {
        "schema": SCHEMA,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "job": job,
        "model": about_model,
        "gpu": {name: _highest(steps, "gpu", name) for name in ("peak_bytes", "peak_allocated_bytes")},
        "cpu": {"peak_bytes": _highest(steps, "cpu", "peak_bytes")},
        "seconds": round(seconds, 1),
        "steps": steps,
    }


def _highest(steps, device: str, field: str) -> int:
    return max(step[device][field] for step in steps)


def print_table(result) -> None:
    """One line per step: peaks, and the four largest kinds at the GPU peak."""
    model, gpu, cpu = result["model"], result["gpu"]["peak_bytes"], result["cpu"]["peak_bytes"]
    print(f"{model['architecture']}: {model['bytes']:,} B of weights; GPU peak {gpu:,} B, CPU peak {cpu:,} B")
    print(
        f"{'subgraph':>9} {'phase':<10} {'GPU peak B':>15} {'GPU end B':>14} {'CPU peak B':>16}  "
        "name; largest kinds at the GPU peak"
    )
    for step in result["steps"]:
        where = f"{step['subgraph']}/{step['of']}" if step["subgraph"] else ""
        kinds = sorted(step["gpu"]["by_kind"].items(), key=lambda item: -item[1])[:4]
        gpu, cpu = step["gpu"], step["cpu"]["peak_bytes"]
        figures = f"{gpu['peak_bytes']:>15,} {gpu['end_bytes']:>14,} {cpu:>16,}"
        largest = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
        print(f"{where:>9} {step['phase']:<10} {figures}  {step['name']}; {largest}")
        for item in step.get("top", []):
            print(f"{'':>20} {item['bytes']:>15,}  {item['kind']}  {item['origin']}")


def main() -> None:
    args = parse_arguments()
    if not Path(args.recipe).is_file():
        raise SystemExit(f"meter: no recipe file {args.recipe}")
    result = measure(args)
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.table:
        print_table(result)
    elif not args.out:
        json.dump(result, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
