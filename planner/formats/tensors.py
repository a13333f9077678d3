"""A model's tensors, and the same tensors as a format keeps them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from planner.errors import UnsupportedError

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph, Structure, Unit
    from planner.models.kinds import UnitKind
    from planner.recipe.specs import Scheme

# Linearized experts: model.layers.3.mlp.experts.17.up_proj.weight
_EXPERT = re.compile(r"\.experts\.\d+\.")
ANY_EXPERT = ".experts.*."


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One tensor of the model, or the tensors of a layer's experts that differ in their number alone."""

    name: str
    """Full parameter name as transformers spells it; the expert's number is a `*`."""
    shape: tuple[int, ...]
    """The shape of one copy."""
    copies: int = 1
    classes: tuple[str, ...] = ()
    """Class names of the owning module's MRO, own class first."""
    unit: "UnitKind" = "other"
    """What the tensor belongs to: embedding, vision, audio, projector, decoder, norm, head, other."""
    layer: int | None = None
    """Number of the text decoder layer, from 0."""

    @property
    def module(self) -> str:
        """Full name of the owning module."""
        return self.name.rpartition(".")[0]

    @property
    def elements(self) -> int:
        """Number of weights, all copies."""
        return prod(self.shape) * self.copies

    @property
    def is_linear(self) -> bool:
        """A matrix of a Linear: what quantization formats quantize."""
        return "Linear" in self.classes and self.name.endswith(".weight") and len(self.shape) == 2

    @property
    def is_expert(self) -> bool:
        """Whether it belongs to a routed expert, so that only the tokens routed there read it."""
        return ANY_EXPERT in self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One Weight in a format, all copies, with the scales, zero points, ... that belong to it."""

    weight: Weight
    type: str
    """What it is kept as, in the format's own words: `Q4_K`, `bfloat16`, `int4 group 128`."""
    file_bytes: int
    """On disk."""
    gpu_bytes: int
    """On the GPU while serving."""
    cpu_bytes: int = 0
    """In CPU memory while serving, where the engine keeps it there (llama.cpp, ExLlamaV2: token embeddings)."""
    block: tuple[int, int] | None = None
    """Outputs and inputs that share a scale, which no split may cut: (1, 128), (128, 128); None: nothing to cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A whole model in a format: every tensor, and nothing that is not a tensor unless `other_file_bytes` says so."""

    format: str
    tensors: tuple[Stored, ...]
    other_file_bytes: int = 0
    """Bytes of the checkpoint that are no tensors: headers, vocabulary."""
    kv_dtype: str | None = None
    """Type that the format gives keys and values; None: it says nothing of them."""
    schemes: "tuple[Scheme, ...]" = ()
    """The schemes of compressed-tensors that its modules have: what a card must have kernels for."""
    notes: tuple[str, ...] = field(default=())

    @property
    def file_bytes(self) -> int:
        return sum(t.file_bytes for t in self.tensors) + self.other_file_bytes

    @property
    def gpu_bytes(self) -> int:
        return sum(t.gpu_bytes for t in self.tensors)

    @property
    def cpu_bytes(self) -> int:
        return sum(t.cpu_bytes for t in self.tensors)

    @property
    def elements(self) -> int:
        return sum(t.weight.elements for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Average over all weights of the model: bits of tensors on disk per weight."""
        return 8 * sum(t.file_bytes for t in self.tensors) / max(1, self.elements)


def nothing_to_quantize(method: str, model: str, weights: Iterable[Weight]) -> UnsupportedError:
    """For a format that would leave every matrix of the model's layers as it is."""
    inside = (w for w in weights if w.layer is not None and len(w.shape) > 1 and w.classes)
    kinds = ", ".join(dict.fromkeys(w.classes[0] for w in inside)) or "none"
    return UnsupportedError(
        f"{method} is known for Linears alone, and the layers of {model} hold none: {kinds} instead"
    )


def weights_of(graph: "ModelGraph") -> tuple[Weight, ...]:
    """Every tensor of the model in its order, tied ones once, the experts of a layer together."""
    layers = _layer_numbers(graph)
    found: list[Weight] = []
    for unit in graph.units:
        found += _unit_weights(unit, graph.structures[unit.structure], layers.get(unit.name))
    return tuple(found)


def _layer_numbers(graph: "ModelGraph") -> dict[str, int]:
    """Decoder layers are numbered in their order; a decoder unit without a number of its own is no layer."""
    named = (u.name for u in graph.units if u.kind == "decoder")
    layers = [name for name in named if name.rpartition(".")[2].isdigit()]
    return {name: number for number, name in enumerate(layers)}


def _unit_weights(unit: "Unit", structure: "Structure", layer: int | None) -> Iterable[Weight]:
    classes = {module.name: module.classes for module in structure.modules}
    grouped: dict[tuple[str, tuple[int, ...]], int] = {}
    owners: dict[str, tuple[str, ...]] = {}
    for parameter in structure.parameters:
        if not parameter.tied:
            name = _EXPERT.sub(ANY_EXPERT, parameter.name)
            grouped[name, parameter.shape] = grouped.get((name, parameter.shape), 0) + 1
            owners[name] = classes.get(parameter.name.rpartition(".")[0], ())
    return _records(unit, grouped, owners, layer)


def _records(
    unit: "Unit", grouped: dict[tuple[str, tuple[int, ...]], int], owners: dict[str, tuple[str, ...]], layer: int | None
) -> Iterator[Weight]:
    for (name, shape), copies in grouped.items():
        yield Weight(
            name=(unit.name + name).lstrip("."),
            shape=shape,
            copies=copies,
            classes=owners[name],
            unit=unit.kind,
            layer=layer,
        )
