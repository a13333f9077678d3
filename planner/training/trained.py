"""What of a model is trained and what is frozen, by method."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from planner.errors import JobError
from planner.formats.bitsandbytes import quantized_weights
from planner.formats.fused_experts import loaded_weights
from planner.formats.registry import find_format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Weight
from planner.models.kinds import BESIDE_TEXT
from planner.training.lora import adapter_shapes, is_parameter, target_weights
from planner.training.schema import TrainOptions
from planner.training.states import States

NF4 = "nf4-dq"
Shapes = list[tuple[tuple[int, ...], int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A model's weights by what training does with them."""

    states: States
    adapters: frozenset[str]
    """Linears, and fused parameters, that have one."""
    quantized: frozenset[str]
    """Linears that are kept in 4 bits."""
    dequantized: int
    """Bytes of the largest of these in 16 bit."""
    vision: int
    """Weights of towers and projectors, frozen."""


def split(served: ServedModel, options: TrainOptions) -> Parts:
    """Sort a model's tensors. Raises JobError where an option has no meaning for the method."""
    vision = sum(w.elements for w in served.weights if w.unit in BESIDE_TEXT)
    if options.method == "full":
        return Parts(
            states=_full(served, options, vision), adapters=frozenset(), quantized=frozenset(), dequantized=0,
            vision=vision,
        )  # fmt: skip
    if options.method == "qlora" and options.precision == "fp32":
        raise JobError("--precision fp32: QLoRA computes in 16 bit; leave it at bf16-mixed")
    targets = target_weights(served, options.targets, options.method)
    if options.dropout and any(is_parameter(w) for w in targets):
        raise JobError(
            "--dropout: peft's adapters on fused experts and routers take none (ParamWrapper); leave it at 0"
        )
    quantized = _quantized(served) if options.method == "qlora" else frozenset()
    return Parts(
        states=_adapted(served, options, targets, quantized),
        adapters=frozenset(w.name if is_parameter(w) else w.module for w in targets),
        quantized=frozenset(w.module for w in quantized),
        dequantized=max((2 * w.elements // w.copies for w in quantized), default=0),
        vision=vision,
    )


def _quantized(served: ServedModel) -> frozenset[Weight]:
    names = quantized_weights(served)
    return frozenset(w for w in served.weights if w.name in names)


def _full(served: ServedModel, options: TrainOptions, vision: int) -> States:
    """All weights but those of towers, which text never reaches."""
    weights = [w for w in loaded_weights(served) if w.unit not in BESIDE_TEXT]
    item = 2 if options.precision == "bf16" else 4
    largest, layers = _layers(served.weights)
    inside = sum(w.elements for w in weights if w.layer is None)
    return States(
        shapes=tuple((w.shape, w.copies) for w in weights),
        embeddings=tuple((w.shape, w.copies) for w in weights if "Embedding" in w.classes),
        trained=sum(w.elements for w in weights),
        frozen_bytes=vision * item,
        layer_weights=largest,
        layer_trained=largest,
        root_weights=inside + vision,
        root_trained=inside,
        layers_weights=layers,
        largest=max((prod(w.shape) for w in weights), default=0),
        optimizer=options.optimizer,
    )


def _adapted(
    served: ServedModel, options: TrainOptions, targets: tuple[Weight, ...], quantized: frozenset[Weight]
) -> States:
    """Adapters alone."""
    shapes = adapter_shapes(targets, options.rank)
    largest, layers = _layers(served.weights)
    per_layer: dict[int | None, int] = {}
    for weight in targets:
        own = _count(adapter_shapes([weight], options.rank))
        per_layer[weight.layer] = per_layer.get(weight.layer, 0) + own
    outside = per_layer.pop(None, 0)
    adapters = _count(shapes)
    return States(
        shapes=tuple(shapes),
        trained=adapters,
        frozen_bytes=_frozen_bytes(served, options, quantized),
        quantized=sum(w.elements for w in quantized),
        quantized_bytes=_quantized_bytes(served, quantized),
        layer_weights=largest + max(per_layer.values(), default=0),
        layer_trained=max(per_layer.values(), default=0),
        root_weights=served.parameters - layers + outside,
        root_trained=outside,
        layers_weights=layers + adapters - outside,
        largest=max((shape[0] * shape[1] for shape, _ in shapes), default=0),
        optimizer=options.optimizer,
    )


def _frozen_bytes(served: ServedModel, options: TrainOptions, quantized: frozenset[Weight]) -> int:
    """The base model: 16 bit (fp32 where asked); 4-bit Linears with everything else in fp32.

    peft utils/other.py prepare_model_for_kbit_training casts what is not quantized to fp32.
    """
    if options.method == "lora":
        return served.parameters * (4 if options.precision == "fp32" else 2)
    stored = find_format(NF4).store(served)
    return sum(t.gpu_bytes if t.weight in quantized else 4 * t.weight.elements for t in stored.tensors)


def _quantized_bytes(served: ServedModel, quantized: frozenset[Weight]) -> int:
    if not quantized:
        return 0
    return sum(t.gpu_bytes for t in find_format(NF4).store(served).tensors if t.weight in quantized)


def _layers(weights: Iterable[Weight]) -> tuple[int, int]:
    """Weights of the largest decoder layer, and of all."""
    sizes: dict[int, int] = {}
    for weight in weights:
        if weight.layer is not None:
            sizes[weight.layer] = sizes.get(weight.layer, 0) + weight.elements
    return max(sizes.values(), default=0), sum(sizes.values())


def _count(shapes: Shapes) -> int:
    return sum(shape[0] * shape[1] * copies for shape, copies in shapes)
