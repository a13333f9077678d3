"""From the options as typed to a checked Job; every mistake becomes one message in the user's spelling."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from planner.commands.options import JobOptions
from planner.errors import JobError
from planner.job import Job
from planner.units import parse_bytes

_SPELLED_OTHERWISE = {
    "gpu_memory_bytes": "--gpu-memory",
    "propagate_error": "--no-propagate-error",
    "calibrate_all_experts": "--no-calibrate-all-experts",
}
R = TypeVar("R", bound=BaseModel)
_SIZE = re.compile(r"(\d{1,9})\s*[xX]\s*(\d{1,9})")


def make_job(options: JobOptions) -> Job:
    """A Job with the options' values; raises JobError naming the option and the value at fault."""
    values = {
        "samples": options.samples,
        "seq_len": options.seq_len,
        "batch_size": options.batch_size,
        "images": options.images,
        "image_size": _image_size(options.image_size),
        "pipeline": options.pipeline,
        "sequential_targets": _names(options.sequential_targets),
        "targets_per_subgraph": options.targets_per_subgraph,
        "offload_device": options.offload_device,
        "propagate_error": not options.no_propagate_error,
        "prefetch": options.prefetch,
        "calibrate_all_experts": not options.no_calibrate_all_experts,
        "linearized": options.linearized,
        "dtype": options.dtype,
        "layers": options.layers,
        "vision_layers": options.vision_layers,
        "gpu_memory_bytes": _gpu_memory(options.gpu_memory),
    }
    return checked(Job, values)


def checked(record: type[R], values: Mapping[str, Any]) -> R:
    """The record with these values; raises JobError naming the option and the value at fault."""
    try:
        return record.model_validate(values)
    except ValidationError as error:
        raise JobError("; ".join(_sentence(detail, record) for detail in error.errors())) from None


def option_of(field: str) -> str:
    """The command line's spelling of a record's field, e.g. seq_len -> --seq-len."""
    return _SPELLED_OTHERWISE.get(field, "--" + field.replace("_", "-"))


def _image_size(text: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise JobError(f"--image-size {text!r}: write height x width in pixels, like 448x448")
    return int(match[1]), int(match[2])


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise JobError(f"--sequential-targets {text!r}: write class names with commas between, like A,B")
    return names


def _gpu_memory(text: str) -> int:
    try:
        return parse_bytes(text)
    except JobError as error:
        raise JobError(f"--gpu-memory: {error}") from None


def _sentence(detail: ErrorDetails, record: type[BaseModel]) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not detail["loc"]:
        return _in_options(message, record)
    value = f" {detail['input']}" if isinstance(detail["input"], int | float | str) else ""
    return f"{option_of(str(detail['loc'][0]))}{value}: {message}"


def _in_options(message: str, record: type[BaseModel]) -> str:
    """The message with each field of the record spelled as its option: batch_size -> --batch-size."""
    fields = sorted(record.model_fields, key=len, reverse=True)
    return re.sub(rf"\b({'|'.join(fields)})\b", lambda match: option_of(match[1]), message)
