"""A job as text to paste: the planner's command line, and the call of LLM Compressor."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from planner.compress.schema import Plan
from planner.fields import JOB_FIELDS
from planner.hardware.machine import Machine
from planner.job import Job
from planner.units import GIB

_DEFAULT = Job()
_ONESHOT: Mapping[str, str] = {
    "samples": "num_calibration_samples",
    "seq_len": "max_seq_length",
    "batch_size": "batch_size",
    "pipeline": "pipeline",
    "sequential_targets": "sequential_targets",
    "targets_per_subgraph": "sequential_targets_per_subgraph",
    "offload_device": "sequential_offload_device",
    "propagate_error": "propagate_error",
    "prefetch": "sequential_prefetch",
    "calibrate_all_experts": "moe_calibrate_all_experts",
}
"""Our fields, and the arguments of `oneshot` (args/dataset_arguments.py) that they stand for."""
_ALWAYS = ("samples", "seq_len", "batch_size")
_DEVICES = {"gpu": "cuda:0", "gpu:1": "cuda:1", "cpu": "cpu"}


def command_line(command: str, model: str, recipe: str, job: Job, machine: Machine | None = None) -> str:
    """`planner COMMAND MODEL -r RECIPE` with every option that is not the default."""
    words = ["planner", command, model, "-r", recipe, *_options(job), *(_machine(machine) if machine else ())]
    return shlex.join(words)


def _machine(machine: Machine) -> Iterator[str]:
    """What is said of a machine beside its card, which the job names."""
    if machine.gpus > 1:
        yield from ("--gpus", str(machine.gpus))
    for option, size in (("--ram", machine.ram_bytes), ("--disk", machine.disk_bytes)):
        if size is not None:
            yield from (option, size_words(size))


def _options(job: Job) -> Iterator[str]:
    skipped = {"gpu_memory_bytes", "sm"} if job.gpu else set()
    for field in JOB_FIELDS:
        value = getattr(job, field.name)
        if value == field.default or field.name in skipped:
            continue
        typed = field.spelling.write(value)
        yield from (field.option,) if field.is_flag else (field.option, str(typed))


def library_call(plan: Plan, recipe: str, job: Job, recipe_changes: Mapping[str, Any]) -> str:
    """The load call and `oneshot(...)` of LLM Compressor that run this job."""
    auto = _auto_class(plan.model.architecture)
    lines = [f"from transformers import {auto}", "from llmcompressor import oneshot", *_loading(job, auto)]
    lines += [f"# in the recipe, for GPTQModifier: {name}: {value}" for name, value in recipe_changes.items()]
    lines += ["oneshot(", "    model=model,", "    dataset=dataset,", f"    recipe={recipe!r},"]
    lines += [f"    {name}={value!r}," for name, value in _arguments(job)]
    if job.ranks > 1:
        lines = [f"# torchrun --nproc_per_node {job.ranks} this_script.py", _INIT, *lines]
    return "\n".join([*lines, ")", f'model.save_pretrained("{plan.model.name}-{plan.recipe}", save_compressed=True)'])


def _arguments(job: Job) -> Iterator[tuple[str, Any]]:
    for field, argument in _ONESHOT.items():
        value = getattr(job, field)
        if field in _ALWAYS or value != getattr(_DEFAULT, field):
            yield argument, _DEVICES[value] if field == "offload_device" else _plain(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _loading(job: Job, auto: str) -> list[str]:
    """from_pretrained, inside the context managers that the job's way of loading needs."""
    more = "".join(f", {name}={value}" for name, value in _placement(job))
    call = f'model = {auto}.from_pretrained(MODEL_ID, dtype="{job.dtype}"{more})'
    manager = _MANAGERS.get((job.weights == "disk" or job.ranks > 1, job.linearized))
    if manager is None:
        return [call]
    module, name = manager
    argument = "" if auto == "AutoModelForCausalLM" else auto
    return [f"from {module} import {name}", f"with {name}({argument}):", f"    {call}"]


_INIT = "from compressed_tensors.distributed import init_dist; init_dist()"
_MANAGERS = {
    (True, True): ("llmcompressor.utils", "load_context"),
    (True, False): ("compressed_tensors.offload", "load_offloaded_model"),
    (False, True): ("llmcompressor.modeling.moe.linearize", "load_quantizable_moe"),
}
"""The context manager that from_pretrained runs in: (offloaded or shared, linear experts) -> module, name."""


def _placement(job: Job) -> Iterator[tuple[str, str]]:
    """Arguments of from_pretrained that say where the weights go."""
    if job.weights == "gpu":
        yield "device_map", '"cuda:0"'
    if job.weights == "disk":
        budget = job.ram_for_weights_bytes
        yield from (("device_map", '"auto_offload"'), ("max_memory", f'{{"cpu": {budget or 0}}}'))
        yield "offload_folder", '"offload"'


def _auto_class(architecture: str) -> str:
    """The class of transformers that loads this architecture."""
    is_vision = architecture.endswith("ForConditionalGeneration")
    return "AutoModelForImageTextToText" if is_vision else "AutoModelForCausalLM"


def size_words(count: int) -> str:
    """Bytes as the command line reads them back."""
    return f"{count // GIB}GiB" if count % GIB == 0 else f"{count} B"
