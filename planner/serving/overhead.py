"""What a GPU holds beside weights, cache and activations: named parts, each with a source and an own override."""

import re
from collections.abc import Mapping
from fractions import Fraction
from math import ceil

from planner.errors import JobError
from planner.formats.registry import Family
from planner.hints import did_you_mean
from planner.serving.schema import Engine, OverheadPart, ServeOptions
from planner.units import GIB, MIB, parse_bytes

ENGINES: Mapping[Family, Engine] = {
    "plain": "vllm",
    "bitsandbytes": "vllm",
    "compressed-tensors": "vllm",
    "gptq": "vllm",
    "gguf": "llama.cpp",
    "exllama": "exllama",
}

# vLLM vllm/config/cache.py CacheConfig.gpu_memory_utilization (0.9 up to 0.18).
UTILIZATION = 0.92

CONTEXT, GRAPHS, SHARE, FLAT = "cuda-context", "cuda-graphs", "not-vllm", "flat"
PARTS = (CONTEXT, GRAPHS, SHARE)

# PyTorch issue 107667: about 300 MB since CUDA 11.7 loads kernels when they are first used, more as libraries are
# used; before that over 1 GB. llama.cpp links far fewer kernels.
CONTEXT_BYTES: Mapping[Engine, int] = {"vllm": 512 * MIB, "exllama": 512 * MIB, "llama.cpp": 320 * MIB}
CONTEXT_SOURCE = "assumed: 0.3 to 0.6 GiB by driver, card and libraries (pytorch issue 107667: 300 MB and more)"
# vLLM prints it: 0.21 GiB in pull request 11349 (Llama-3.2-1B), 0.25 to 1.49 GiB in logs of larger models.
_GRAPHS_BYTES = GIB // 2
_GRAPHS_SOURCE = "assumed: vLLM logs 0.2 to 1.5 GiB by model and captured batch sizes; 0 with --enforce-eager"
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def overhead_parts(
    engine: Engine, options: ServeOptions, *, weights: int, memory: int | None
) -> tuple[OverheadPart, ...]:
    """The parts on one GPU that holds `weights` bytes of weights and has `memory` bytes in all, if that is known.

    vLLM counts what it takes from the moment the CUDA context and NCCL are there (vllm/v1/worker/gpu_worker.py
    init_device): the context lies in the share of the card that gpu_memory_utilization leaves to others, and only
    the rest of that share is a part of its own.
    """
    if options.overhead is not None:
        return (_flat(options.overhead, weights),)
    for name in options.reserve:
        if name not in PARTS:
            hint = did_you_mean(name, PARTS) or f"; the parts are {', '.join(PARTS)}"
            raise JobError(f"unknown overhead part {name!r}{hint}")
    parts = [OverheadPart(name=CONTEXT, bytes=CONTEXT_BYTES[engine], source=CONTEXT_SOURCE)]
    if engine == "vllm":
        parts.append(OverheadPart(name=GRAPHS, bytes=_GRAPHS_BYTES, source=_GRAPHS_SOURCE))
    given = {part.name: part for part in parts}
    for name, size in options.reserve.items():
        given[name] = OverheadPart(name=name, bytes=size, source="as given")
    if engine == "vllm" and memory is not None and SHARE not in options.reserve:
        given[SHARE] = _share(options.gpu_memory_utilization, memory, given[CONTEXT].bytes)
    return tuple(given[name] for name in PARTS if name in given)


def flat_share(text: str) -> Fraction | int:
    """A share of the weights (`20%`), or bytes (`2GiB`, 0). Raises JobError for anything else."""
    if match := _PERCENT.fullmatch(text):
        return Fraction(match[1]) / 100
    if text.strip() == "0":
        return 0
    try:
        return parse_bytes(text)
    except JobError:
        raise JobError(f"overhead {text!r}: write a share of the weights like 20%, or a size like 2GiB") from None


def _flat(text: str, weights: int) -> OverheadPart:
    flat = flat_share(text)
    count = ceil(weights * flat) if isinstance(flat, Fraction) else flat
    return OverheadPart(name=FLAT, bytes=count, source="as given: " + text.strip())


def _share(utilization: float | None, memory: int, context: int) -> OverheadPart:
    used = UTILIZATION if utilization is None else utilization
    left = memory - ceil(memory * Fraction(str(used)))
    source = f"vLLM's gpu_memory_utilization {used:g} leaves {1 - used:.0%} of the card, the CUDA context in it"
    return OverheadPart(name=SHARE, bytes=max(0, left - context), source=source)
