"""Which GPU, or the CPU, holds which part of every tensor, and which layers' cache."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil

from planner.errors import JobError
from planner.fields import SplitMode
from planner.formats.served_model import CacheLayer, ServedModel
from planner.formats.tensors import Stored, StoredModel
from planner.models.kinds import BESIDE_TEXT
from planner.serving.engines import ENGINES
from planner.serving.engines.facts import Devices, EngineFacts
from planner.serving.schema import ServeOptions
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
    bytes: int = field(init=False)
    """Of all weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", sum(held.bytes for held in self.weights))


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


def place(model: ServedModel, stored: StoredModel, engine: EngineFacts, options: ServeOptions) -> Placement:
    """Lay the model out as the engine would. Raises JobError for a split that the engine refuses."""
    if options.gpu_layers is not None and not engine.keeps_layers_on_cpu:
        able = _names(lambda other: other.keeps_layers_on_cpu)
        raise JobError(f"-ngl {options.gpu_layers}: only {able} keeps layers on the CPU; choose a GGUF format")
    stored = as_held_by(engine, stored)
    mode = options.split or engine.split
    if options.gpus == 1 and options.gpu_layers is None:
        return _alone(model, stored, options)
    if mode not in engine.splits:
        able = _names(lambda other: mode in other.splits)
        raise JobError(
            f"--split {mode}: {engine.name} splits by layer here; --engine {able} serves with {mode} parallelism"
        )
    if mode == "layer":
        return _by_layer(model, stored, engine, options)
    return _in_parallel(model, stored, mode, options.gpus)


def _names(can: Callable[[EngineFacts], bool]) -> str:
    """The engines that can."""
    return " or ".join(engine.name for engine in ENGINES.values() if can(engine))


def as_held_by(engine: EngineFacts, stored: StoredModel) -> StoredModel:
    """The model as this engine holds it: where tokens are looked up on the GPU, a table that the format has in CPU
    memory lies there instead, a tied one once."""
    if not engine.tables_on_gpu or not stored.cpu_bytes:
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
    tables = (tensor for tensor in stored.tensors if tensor.cpu_bytes)
    return Share(weights=tuple(Held(stored=tensor, bytes=tensor.cpu_bytes, rows=True) for tensor in tables), cache=())


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
    shares = {count: _parallel_share(model, stored, gpus, count) for count in dict.fromkeys(counts)}
    unknown = unknown_roles(tensor.weight for tensor in stored.tensors)
    notes = check_blocks(model, stored, gpus, whole_experts=mode == "expert")
    if unknown:
        notes.append(f"not known how {', '.join(unknown)} would be split: counted whole on every GPU")
    return Placement(
        mode=mode,
        gpus=tuple(shares[count] for count in counts),
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


def _by_layer(model: ServedModel, stored: StoredModel, engine: EngineFacts, options: ServeOptions) -> Placement:
    device = engine.layer_devices(model.layers, options.gpus, options.gpu_layers)
    gpus = [_layer_share(model, stored, device, rank) for rank in range(options.gpus)]
    left = _layer_share(model, stored, device, None)
    cpu = Share(weights=(*_on_cpu(stored).weights, *left.weights), cache=left.cache)
    on_gpu = sum(device(layer) is not None for layer in range(model.layers))
    return Placement(mode="layer", gpus=tuple(gpus), cpu=cpu, shards=1, gpu_layers=on_gpu)


def _layer_share(model: ServedModel, stored: StoredModel, device: Devices, rank: int | None) -> Share:
    def where(tensor: Stored) -> int | None:
        weight = tensor.weight
        if weight.layer is not None:
            return device(weight.layer)
        if weight.unit in BESIDE_TEXT or (weight.unit == "embedding" and not model.tied):
            return device(0) if device(0) is not None else device(model.layers)
        return device(model.layers)  # final norm, head, and the embedding that is the head

    here = ((tensor, tensor.gpu_bytes) for tensor in stored.tensors if where(tensor) == rank)
    cache = tuple(layer for layer in model.cache if device(layer.layer) == rank)
    return Share(weights=_held(model, here), cache=cache)
