"""Which GPU, or the CPU, holds which part of every tensor, and which layers' cache."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

from planner.errors import JobError
from planner.formats.model import CacheLayer, ServedModel
from planner.formats.tensors import Stored, StoredModel
from planner.serving.schema import Engine, ServeOptions, SplitMode
from planner.serving.tensor_parallel import check_blocks, check_heads, part_of, unknown_roles


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A tensor, or a part of it, on one device."""

    stored: Stored
    bytes: int
    rows: bool = False
    """A table that is looked up: one row is read for each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one device holds."""

    weights: tuple[Held, ...]
    cache: tuple[CacheLayer, ...]

    @property
    def bytes(self) -> int:
        return sum(held.bytes for held in self.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A model on its devices."""

    mode: SplitMode | None
    """None on one GPU that holds everything."""
    gpus: tuple[Share, ...]
    cpu: Share
    shards: int
    """GPUs that split heads, and so each layer's cache, between them."""
    gpu_layers: int | None
    """Decoder layers on GPUs; None where all are."""
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(share.bytes for share in self.gpus)


def place(model: ServedModel, stored: StoredModel, engine: Engine, options: ServeOptions) -> Placement:
    """Lay the model out as the engine would. Raises JobError for a split that the engine refuses."""
    if options.gpu_layers is not None and engine != "llama.cpp":
        raise JobError(f"-ngl {options.gpu_layers}: only llama.cpp keeps layers on the CPU; choose a GGUF format")
    stored = as_kept_by(engine, stored)
    mode = options.split or ("tensor" if engine == "vllm" else "layer")
    if options.gpus == 1 and options.gpu_layers is None:
        return _alone(model, stored, options)
    if mode == "layer":
        return _by_layer(model, stored, engine, options)
    if engine != "vllm":
        raise JobError(f"--split {mode}: {engine} splits by layer here; --engine vllm serves with {mode} parallelism")
    return _in_parallel(model, stored, mode, options.gpus)


def as_kept_by(engine: Engine, stored: StoredModel) -> StoredModel:
    """The model as this engine holds it: vLLM looks tokens up on the GPU, in the file's own type, and keeps a tied
    table once (quantization/gguf.py GGUFEmbeddingMethod; llama.cpp has a second one in CPU memory)."""
    if engine != "vllm" or not stored.cpu_bytes:
        return stored
    tensors = (replace(t, gpu_bytes=max(t.gpu_bytes, t.cpu_bytes), cpu_bytes=0) for t in stored.tensors)
    return replace(stored, tensors=tuple(tensors))


def _alone(model: ServedModel, stored: StoredModel, options: ServeOptions) -> Placement:
    if options.split == "expert" and not model.experts:
        raise JobError(f"--split expert: {model.name} has no experts")
    whole = Share(weights=_held(model, ((t, t.gpu_bytes) for t in stored.tensors)), cache=model.cache)
    return Placement(mode=None, gpus=(whole,), cpu=_on_cpu(stored), shards=1, gpu_layers=None)


def _on_cpu(stored: StoredModel) -> Share:
    """What the format itself keeps in CPU memory: tables that are looked up."""
    kept = ((tensor, tensor.cpu_bytes) for tensor in stored.tensors if tensor.cpu_bytes)
    return Share(weights=tuple(Held(stored=tensor, bytes=count, rows=True) for tensor, count in kept), cache=())


def _held(model: ServedModel, pairs: Iterable[tuple[Stored, int]]) -> tuple[Held, ...]:
    """Parts of some bytes; a tied embedding is the head too, and read whole."""
    return tuple(
        Held(stored=tensor, bytes=count, rows=tensor.weight.unit == "embedding" and not model.tied)
        for tensor, count in pairs
        if count
    )


# Tensor and expert parallelism


def _in_parallel(model: ServedModel, stored: StoredModel, mode: SplitMode, gpus: int) -> Placement:
    """vLLM's tensor parallelism; with --enable-expert-parallel each GPU has whole experts instead of slices.

    Experts go out in order, the first GPUs get one more where they do not come out even
    (vllm/model_executor/layers/fused_moe/layer.py determine_expert_map).
    """
    check_heads(model, gpus)
    if mode == "expert" and not model.experts:
        raise JobError(f"--split expert: {model.name} has no experts")
    counts = [_experts_on(model.experts, gpus, rank) if mode == "expert" else None for rank in range(gpus)]
    made = {count: _parallel_share(model, stored, gpus, count) for count in dict.fromkeys(counts)}
    unknown = unknown_roles(tensor.weight for tensor in stored.tensors)
    notes = check_blocks(model, stored, gpus, whole_experts=mode == "expert")
    if unknown:
        notes.append(f"not known how {', '.join(unknown)} would be split: counted whole on every GPU")
    return Placement(
        mode=mode,
        gpus=tuple(made[count] for count in counts),
        cpu=_on_cpu(stored),
        shards=gpus,
        gpu_layers=None,
        notes=tuple(notes),
    )


def _experts_on(experts: int, gpus: int, rank: int) -> int:
    return experts // gpus + (rank < experts % gpus)


def _parallel_share(model: ServedModel, stored: StoredModel, gpus: int, experts: int | None) -> Share:
    def part(tensor: Stored) -> Fraction:
        if experts is not None and tensor.weight.is_expert:
            return Fraction(experts, model.experts)
        return part_of(tensor.weight, model, gpus)

    return Share(weights=_held(model, ((t, ceil(t.gpu_bytes * part(t))) for t in stored.tensors)), cache=model.cache)


# Split by layer


def _by_layer(model: ServedModel, stored: StoredModel, engine: Engine, options: ServeOptions) -> Placement:
    device = _llama_devices(model, options) if engine == "llama.cpp" else _pipeline(model.layers, options.gpus)
    gpus = [_layer_share(model, stored, device, rank) for rank in range(options.gpus)]
    kept = _layer_share(model, stored, device, None)
    cpu = Share(weights=(*_on_cpu(stored).weights, *kept.weights), cache=kept.cache)
    on_gpu = sum(device(layer) is not None for layer in range(model.layers))
    return Placement(mode="layer", gpus=tuple(gpus), cpu=cpu, shards=1, gpu_layers=on_gpu)


def _layer_share(
    model: ServedModel, stored: StoredModel, device: Callable[[int], int | None], rank: int | None
) -> Share:
    def where(tensor: Stored) -> int | None:
        weight = tensor.weight
        if weight.layer is not None:
            return device(weight.layer)
        if weight.unit in ("vision", "projector") or (weight.unit == "embedding" and not model.tied):
            return device(0) if device(0) is not None else device(model.layers)
        return device(model.layers)  # final norm, head, and the embedding that is the head

    here = ((tensor, tensor.gpu_bytes) for tensor in stored.tensors if where(tensor) == rank)
    cache = tuple(layer for layer in model.cache if device(layer.layer) == rank)
    return Share(weights=_held(model, here), cache=cache)


def _llama_devices(model: ServedModel, options: ServeOptions) -> Callable[[int], int | None]:
    """Layer number -> GPU, None for the CPU; number `layers` is the output.

    llama.cpp src/llama-model.cpp load_tensors: the output and the last `ngl - 1` layers go to the GPUs, in equal
    numbers where the GPUs have equal free memory.
    """
    wanted = model.layers + 1 if options.gpu_layers is None else options.gpu_layers
    offloaded = min(wanted, model.layers + 1)
    first = model.layers + 1 - offloaded
    borders = [Fraction(rank + 1, options.gpus) for rank in range(options.gpus)]

    def device(layer: int) -> int | None:
        return bisect_right(borders, Fraction(layer - first, offloaded)) if layer >= first else None

    return device


def _pipeline(layers: int, gpus: int) -> Callable[[int], int | None]:
    """vLLM vllm/distributed/utils.py get_pp_indices: the rest goes to GPUs before the last, one layer each."""
    if gpus > layers:
        raise JobError(f"--gpus {gpus}: the model has only {layers} layers to split")
    counts = [layers // gpus] * gpus
    for position in range(2, layers % gpus + 2):
        counts[-position] += 1
    starts = _starts(counts)

    def device(layer: int) -> int | None:
        return gpus - 1 if layer >= layers else bisect_right(starts, layer) - 1

    return device


def _starts(counts: Sequence[int]) -> list[int]:
    return [sum(counts[:rank]) for rank in range(len(counts))]
