"""A model's tensors as transformers 5 loads them: the routed experts of a layer in one tensor per projection."""

from collections.abc import Sequence
from dataclasses import replace

from planner.formats.served_model import ServedModel
from planner.formats.tensors import ANY_EXPERT, Weight

GATE_UP = "gate_up_proj"
EXPERTS = "Experts"
_HALVES = ("gate_proj", "up_proj")


def loaded_weights(served: ServedModel) -> tuple[Weight, ...]:
    """Every tensor; `(experts, 2 x intermediate, hidden)` where gate and up of all experts are one.

    transformers/conversion_mapping.py MergeModulelist and Concatenate, models/*/modeling_*.py class *Experts. Some
    (gpt-oss, Llama 4) keep the last two the other way round.
    """
    if not served.graph.fused_expert_bytes:
        return served.weights
    halves: dict[str, list[Weight]] = {}
    for weight in served.weights:
        fused = _one(weight) if weight.is_expert else weight
        halves.setdefault(fused.name, []).append(fused)
    return tuple(_joined(parts) for parts in halves.values())


def _one(weight: Weight) -> Weight:
    """The same projection of all experts."""
    container, _, last = weight.name.partition(ANY_EXPERT)
    module, _, kind = last.rpartition(".")
    name = GATE_UP if module in _HALVES else module
    return replace(
        weight,
        name=f"{container}.experts.{name}" + ("_bias" if kind == "bias" else ""),
        shape=(weight.copies, *weight.shape),
        copies=1,
        classes=(EXPERTS,),
    )


def _joined(parts: Sequence[Weight]) -> Weight:
    """gate and up side by side."""
    if len(parts) == 1:
        return parts[0]
    experts, _, *rest = parts[0].shape
    return replace(parts[0], shape=(experts, sum(part.shape[1] for part in parts), *rest))
