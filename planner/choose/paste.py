"""A job as text to paste: the planner's command line, and the call of LLM Compressor."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from planner.compress.schema import Plan
from planner.fields import JOB_FIELDS
from planner.hardware import named_gpu
from planner.hardware.machine import Machine
from planner.job import Job
from planner.job_arguments import ONESHOT_ARGUMENTS
from planner.models.architectures import HEARING
from planner.recipe.changes import Changes, written
from planner.recipe.files import ON_STDIN, STDIN, list_recipes
from planner.sizing.demands import ram_of
from planner.spelling import BYTES

FROM_STDIN = "recipe.yaml"
"""The file that a recipe from stdin is to be saved to."""
NARROW = 80
"""Columns of the terminal that what is to be pasted is written for."""
SAVE_FIRST = f"first save the recipe from stdin as {FROM_STDIN}"
_DEFAULT = Job()
_ALWAYS = ("samples", "seq_len", "batch_size")
_DEVICES = {"gpu": "cuda:0", "gpu:1": "cuda:1", "cpu": "cpu"}


def command_line(
    command: str, model: str, recipe: str, job: Job, machine: Machine | None = None, changes: Changes | None = None
) -> str:
    """`planner COMMAND MODEL -r RECIPE` with every option that is not the default.

    A recipe from stdin is named as the file that it is to be saved to: what is pasted has no stdin.
    """
    sets = (word for text in written(changes or {}) for word in ("--set", text))
    typed = FROM_STDIN if recipe in (STDIN, ON_STDIN) else recipe
    words = ["planner", command, model, "-r", typed, *sets, *_options(job), *(_machine(machine) if machine else ())]
    return shlex.join(words)


def _machine(machine: Machine) -> Iterator[str]:
    """What is said of a machine beside its card: RAM that a job may have, not all that is built in."""
    if machine.gpus > 1:
        yield from ("--gpus", str(machine.gpus))
    for option, size in (("--ram", ram_of(machine)), ("--disk", machine.disk_bytes)):
        if size is not None:
            yield from (option, BYTES.write(size))


def _card(job: Job) -> Iterator[str]:
    """The card, if somebody said it: by its name where the table has this size under it, else by its size."""
    known = named_gpu(job.gpu) if job.gpu else None
    if known is not None and known.memory_bytes == job.gpu_memory_bytes:
        yield from ("--gpu", known.name)
    elif "gpu_memory_bytes" in job.model_fields_set:
        yield from ("--gpu-memory", BYTES.write(job.gpu_memory_bytes))
        yield from ("--sm", str(job.sm)) if job.sm is not None else ()


def _options(job: Job) -> Iterator[str]:
    yield from _card(job)
    for field in JOB_FIELDS:
        value = getattr(job, field.name)
        if value == field.default or field.name in ("gpu", "gpu_memory_bytes", "sm"):
            continue
        typed = field.spelling.write(value)
        yield from (field.option,) if field.is_flag else (field.option, str(typed))


def library_call(plan: Plan, recipe: str, job: Job, changes: Changes) -> str:
    """The load call and `oneshot(...)` of LLM Compressor that run this job, with what to change in the recipe."""
    auto, path = _auto_class(plan.model.architecture), _recipe_path(recipe)
    lines = [*_started(job), f"from transformers import {auto}", "from llmcompressor import oneshot"]
    lines += [f"# MODEL_ID: {plan.model.name}; dataset: your calibration data", *_parts(job), *_loading(job, auto)]
    if recipe in (STDIN, ON_STDIN):
        lines.append(f"# {path}: what planner read from stdin, saved beside this script")
    elif path != recipe:
        lines.append(f"# {path}: planner's recipes/{path}, copied beside this script")
    lines += [f"# in the recipe, for {_of_modifier(name)}: {value}" for name, value in changes.items()]
    lines += ["oneshot(", "    model=model,", "    dataset=dataset,", f"    recipe={path!r},"]
    lines += [f"    {name}={value!r}," for name, value in _arguments(job)]
    folder = f"{Path(plan.model.name).name}-{Path(plan.recipe).stem}"
    return "\n".join([*lines, ")", f"model.save_pretrained({folder!r}, save_compressed=True)"])


def _parts(job: Job) -> Iterator[str]:
    """What is planned of model and samples that no argument of these calls says."""
    if job.images:
        height, width = job.image_size
        yield f"# each sample of the dataset has {job.images} images of {height} x {width} pixels"
    if job.audios:
        clips = "1 audio clip" if job.audios == 1 else f"{job.audios} audio clips"
        yield f"# each sample of the dataset has {clips} of {job.audio_seconds} seconds"
    for layers, part in ((job.layers, "decoder"), (job.vision_layers, "vision tower")):
        if layers is not None:
            yield f"# planned for {layers} layers of the {part} alone: cut the config of from_pretrained to these"


def _of_modifier(name: str) -> str:
    """`GPTQModifier.block_size` as words."""
    modifier, _, field = name.partition(".")
    return f"{modifier}: {field}"


def _recipe_path(recipe: str) -> str:
    """The file of a shipped recipe, whose name alone LLM Compressor does not know, or that of one from stdin."""
    if recipe in (STDIN, ON_STDIN):
        return FROM_STDIN
    shipped = {info.name: info.path.name for info in list_recipes()}
    return shipped.get(recipe, recipe)


def _started(job: Job) -> Iterator[str]:
    """How the script is to be started, and what it does first."""
    if job.alloc_conf:
        yield f"# with PYTORCH_ALLOC_CONF={job.alloc_conf} in the environment"
    if not job.progress_bars:
        yield "# with TQDM_DISABLE=1 in the environment"
    if job.ranks > 1:
        yield f"# torchrun --nproc_per_node {job.ranks} this_script.py; each rank loads its part of the samples:"
        yield "# split=get_rank_partition(SPLIT, SAMPLES) of llmcompressor.datasets.utils"
        yield _INIT


def _arguments(job: Job) -> Iterator[tuple[str, Any]]:
    for field, argument in ONESHOT_ARGUMENTS.items():
        value = getattr(job, field)
        if field in _ALWAYS or value != getattr(_DEFAULT, field):
            yield argument, _device(value, job) if field == "offload_device" else _plain(value)


def _device(name: str, job: Job) -> str:
    """A device as PyTorch calls it; the card of each rank is the current one."""
    return "cuda" if name == "gpu" and job.ranks > 1 else _DEVICES[name]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _loading(job: Job, auto: str) -> list[str]:
    """from_pretrained, inside the context managers that the job's way of loading needs."""
    manager = _MANAGERS.get((job.weights == "disk" or job.ranks > 1, job.linearized))
    arguments = ["MODEL_ID", f'dtype="{job.dtype}"', *(f"{name}={value}" for name, value in _placement(job))]
    call = _call(f"model = {auto}.from_pretrained", arguments, indent=4 if manager else 0)
    if manager is None:
        return call
    module, name = manager
    argument = "" if auto == "AutoModelForCausalLM" else auto
    return [f"from {module} import {name}", f"with {name}({argument}):", *call]


def _call(called: str, arguments: Sequence[str], indent: int) -> list[str]:
    """The call in one line, or with a line for each argument where a terminal of 80 columns would break it."""
    before, line = " " * indent, f"{called}({', '.join(arguments)})"
    if indent + len(line) < NARROW:
        return [before + line]
    return [f"{before}{called}(", *(f"{before}    {each}," for each in arguments), f"{before})"]


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
        yield "device_map", f'"{_device("gpu", job)}"'
    if job.weights == "disk":
        budget = job.ram_for_weights_bytes
        yield from (("device_map", '"auto_offload"'), ("max_memory", f'{{"cpu": {budget or 0}}}'))
        yield "offload_folder", '"offload"'


def _auto_class(architecture: str) -> str:
    """The class of transformers that loads this architecture."""
    if architecture in HEARING.values():
        return architecture  # no auto class for images has it
    is_vision = architecture.endswith("ForConditionalGeneration")
    return "AutoModelForImageTextToText" if is_vision else "AutoModelForCausalLM"
