"""Options by the names that other tools have for them: taken where the meaning is the same, else a hint.

The tools: LLM Compressor's `oneshot` (args/dataset_arguments.py, args/model_arguments.py), vLLM's `vllm serve`
(vllm/engine/arg_utils.py), llama.cpp's server (common/arg.cpp) and transformers' Trainer (training_args.py).
Underscores do for dashes.
"""

from collections.abc import Callable, Mapping

_VALUES = {
    "cuda": "gpu",
    "cuda:0": "gpu",
    "cuda:1": "gpu:1",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
}
_JOB = {
    "num-calibration-samples": "samples",
    "num-samples": "samples",
    "max-seq-length": "seq-len",
    "max-seq-len": "seq-len",
    "sequential-targets-per-subgraph": "targets-per-subgraph",
    "sequential-offload-device": "offload-device",
    "sequential-prefetch": "prefetch",
    "use-loss-mask": "loss-mask",
    "no-moe-calibrate-all-experts": "no-calibrate-all-experts",
    "torch-dtype": "dtype",
    **_VALUES,
}
_SERVED = {
    "max-model-len": "context",
    "ctx-size": "context",
    "max-num-seqs": "batch",
    "batch-size": "batch",
    "kv-cache-dtype": "kv-dtype",
    "tensor-parallel-size": "gpus",
    "max-num-batched-tokens": "prefill-chunk",
    "ubatch-size": "prefill-chunk",
    "n-gpu-layers": "gpu-layers",
}
_TRAINED = {
    "max-seq-length": "seq-len",
    "max-seq-len": "seq-len",
    "max-length": "seq-len",
    "per-device-train-batch-size": "batch-size",
    "gradient-accumulation-steps": "grad-accumulation",
    "lora-r": "rank",
    "lora-rank": "rank",
    "lora-dropout": "dropout",
    "target-modules": "targets",
}
_JOBS = ("plan", "report", "explain", "fit", "strategies", "rent", "compare", "measure", "accuracy", "graph")
_SERVING = ("serve", "formats", "bpw")
SYNONYMS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(_JOBS, _JOB),
    **dict.fromkeys(_SERVING, _SERVED),
    "train": _TRAINED,
    "model-free": {**_VALUES, "torch-dtype": "dtype", "max-shard-size": "shard-size"},
}
"""By command: another tool's name, and the option or value here that means the same."""

SCRIPTS = "rehearse"
"""Its unknown options are a script's own, which may have these names: none is taken for another."""

_OF_RECIPE = "the recipe says that: -r FILE, and --set MODIFIER.FIELD=VALUE changes a field of it"
_OF_DATA = "a plan needs no data: --samples, --seq-len and --batch-size say how much there will be"
_OF_SERVING = "that is of serving (`planner serve`); a calibration sample's tokens are --seq-len"
_FIRST = "the model comes first, without an option: planner COMMAND MODEL ..."
_JOB_HINTS = {
    "max-model-len": _OF_SERVING,
    "max-num-seqs": "that is of serving (`planner serve`); samples per forward pass are --batch-size",
    "gpu-memory-utilization": "that is of serving (`planner serve`); LLM Compressor takes what it needs",
    "tensor-parallel-size": "LLM Compressor splits no Linear; --ranks N is a torchrun job",
    "nproc-per-node": "write --ranks N",
    "device-map": 'write --weights: cpu, gpu for device_map="cuda", or disk for "auto_offload"',
    "max-memory": "write --weights disk --ram-for-weights SIZE",
    "precision": "write --dtype bfloat16, float16 or float32",
    "propagate-error": "it does; --no-propagate-error turns it off",
    "moe-calibrate-all-experts": "it does; --no-calibrate-all-experts turns it off",
    "output-dir": "nothing is compressed here; --output FILE keeps the plan",
    "save-compressed": "the result is always sized as saved compressed",
    **{name: f"write --dtype {name}" for name in ("bfloat16", "float16", "float32")},
    **dict.fromkeys(("scheme", "ignore", "targets", "quantization", "bits", "group-size"), _OF_RECIPE),
    **dict.fromkeys(("dataset", "dataset-path", "dataset-config-name", "splits", "text-column", "streaming"), _OF_DATA),
}
_SERVED_HINTS = {
    "quantization": "write --weights FORMAT (`planner formats` lists them)",
    "dtype": "write --weights bf16 or fp16, and --kv-dtype for the cache",
    **dict.fromkeys(("recipe", "r"), "`planner serve MODEL --weights RECIPE`: what a recipe makes is a format"),
    "seq-len": "write --context, prompt and answer together",
    "pipeline-parallel-size": "write --gpus N --split layer",
    "enable-expert-parallel": "write --split expert",
    "enforce-eager": "write --reserve cuda-graphs=0",
    "cpu-offload-gb": "planner does not model it; --gpu-layers leaves layers on the CPU (llama.cpp)",
    "cache-type-k": "write --kv-dtype, for keys and values alike",
    "cache-type-v": "write --kv-dtype, for keys and values alike",
}
_TRAINED_HINTS = {
    "gradient-checkpointing": "write --checkpointing full",
    "optim": "write --optimizer NAME",
    "bf16": "write --precision bf16-mixed, or bf16 for a model that is loaded in it",
    "fp16": "write --precision fp16-mixed",
    "deepspeed": "write --sharding zero1, zero2 or zero3",
    "fsdp": "write --sharding fsdp or fsdp-grad-op",
    "load-in-4bit": "write --method qlora",
    "use-peft": "write --method lora",
}
_HINTS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys((*_JOBS, SCRIPTS), _JOB_HINTS),
    **dict.fromkeys(_SERVING, _SERVED_HINTS),
    "train": _TRAINED_HINTS,
}
_MODEL_OPTIONS = ("model", "model-id", "model-name-or-path", "model-path")


def spelled(command: str) -> Callable[[str], str]:
    """What this command takes a name for: click's `token_normalize_func`, for options (without dashes) and words."""
    synonyms = SYNONYMS.get(command, {})

    def normalized(name: str) -> str:
        if command == SCRIPTS:
            return name
        dashed = name.replace("_", "-")
        return synonyms.get(dashed, dashed)

    return normalized


def hint(command: str, option: str) -> str:
    """What to write instead of an option that the command does not have; empty where nothing is known."""
    name = option.lstrip("-").partition("=")[0].replace("_", "-")
    if name in _MODEL_OPTIONS:
        return _FIRST.replace("COMMAND", command)
    if command == SCRIPTS and name in _JOB:
        return f"write --{_JOB[name]}"
    return _HINTS.get(command, {}).get(name, "")
