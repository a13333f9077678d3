"""Turns the options as typed into a checked Job. Every mistake becomes one message that names the option as typed."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from planner.commands.options import JobOptions
from planner.errors import JobError
from planner.fields import JOB_FIELDS
from planner.hardware import agreed_gpu
from planner.job import Job, sentence

_OPTIONS = {field.name: field.option for field in JOB_FIELDS}
R = TypeVar("R", bound=BaseModel)


def make_job(options: JobOptions) -> Job:
    """A Job with the options' values; raises JobError naming the option and the value at fault."""
    card = agreed_gpu(options.get("gpu"), options.get("gpu_memory_bytes"))
    typed = {**options, "gpu": card, "gpu_memory_bytes": None}
    values = {name: value for name, value in typed.items() if value is not None}
    return checked(Job, {field.name: field.parse(values[field.name]) for field in JOB_FIELDS if field.name in values})


def checked(record: type[R], values: Mapping[str, Any]) -> R:
    """The record with these values; raises JobError naming the option and the value at fault."""
    try:
        return record.model_validate(values)
    except ValidationError as error:
        raise JobError("; ".join(_in_options(detail, record) for detail in error.errors())) from None


def option_of(field: str) -> str:
    """The command line's spelling of a record's field, e.g. seq_len -> --seq-len."""
    return _OPTIONS.get(field, "--" + field.replace("_", "-"))


def _in_options(detail: ErrorDetails, record: type[BaseModel]) -> str:
    """The mistake with each field of the record spelled as its option: batch_size -> --batch-size."""
    message = sentence(detail, option_of)
    if detail["loc"]:
        return message
    fields = sorted(record.model_fields, key=len, reverse=True)
    return re.sub(rf"\b({'|'.join(fields)})\b", lambda match: option_of(match[1]), message)
