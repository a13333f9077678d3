"""A job's fields as the arguments of `oneshot` (llmcompressor args/dataset_arguments.py)."""

from collections.abc import Mapping
from typing import Any

from planner.job import Job

ONESHOT_ARGUMENTS: Mapping[str, str] = {
    "samples": "num_calibration_samples",
    "seq_len": "max_seq_length",
    "batch_size": "batch_size",
    "pipeline": "pipeline",
    "sequential_targets": "sequential_targets",
    "targets_per_subgraph": "sequential_targets_per_subgraph",
    "offload_device": "sequential_offload_device",
    "propagate_error": "propagate_error",
    "prefetch": "sequential_prefetch",
    "loss_mask": "use_loss_mask",
    "calibrate_all_experts": "moe_calibrate_all_experts",
}
"""Our fields, and the arguments that they stand for."""


def oneshot_arguments(job: Job) -> dict[str, Any]:
    """The keyword arguments of `oneshot` that run this job, beside its model, recipe and data."""
    arguments = {argument: getattr(job, field) for field, argument in ONESHOT_ARGUMENTS.items()}
    arguments["sequential_offload_device"] = job.offload_device.replace("gpu", "cuda")
    targets = arguments.pop("sequential_targets")
    return arguments if targets is None else {**arguments, "sequential_targets": list(targets)}
