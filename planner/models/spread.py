"""A layer's modules on the cards that AutoRound takes them to: compressors/orchestrator.py quantize_block."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from planner.errors import JobError
from planner.models.autograd import TrainingRecorder
from planner.models.cards import PlacedLinear, cards_of_linears
from planner.models.tuned import LinearTuning, TuningRequest


def placed(
    block: torch.nn.Module, request: TuningRequest, hidden: torch.Tensor, recorder: TrainingRecorder
) -> dict[str, int]:
    """The card of each Linear that is trained, by its name in the layer, which the recorder is told of; empty for one.

    `hidden`: the hidden states of a batch. accelerate's hooks take Linears to their cards, and those alone that have no
    module inside: raises JobError where that stops the library.
    """
    if request.spread is None:
        return {}
    trained = {name.removeprefix("."): how for name, how in request.linears}
    parts: dict[str, Any] = {name: part for name, part in block.named_modules() if name in trained}
    for name, part in parts.items():
        if any(True for _ in part.children()):
            raise JobError(
                f"{request.layer}.{name}: LLM Compressor stops here: where device_ids names several GPUs, AutoRound "
                "leaves a Linear on the CPU that another modifier's transform is hooked to; name one GPU"
            )
    sample = hidden[0].numel() * hidden.element_size()
    linears = [_to_place(name, part, trained[name]) for name, part in parts.items()]
    found = cards_of_linears(linears, request.spread, hidden.shape[1], sample, hidden.element_size())
    for name, card in found.items():
        for tensor in parts[name].parameters():
            recorder.place(tensor, card)
    return found


def _to_place(name: str, part: Any, how: LinearTuning) -> PlacedLinear:
    weight: torch.Tensor = part.weight
    return PlacedLinear(
        name=name,
        bytes=weight.numel() * weight.element_size(),
        inputs=part.in_features,
        outputs=part.out_features,
        quantizes_inputs=how.inputs is not None,
    )


def places(block: torch.nn.Module, cards: Mapping[str, int]) -> Iterator[int | None]:
    """The card of each parameter and buffer in the order of the modules, None for what is taken to none by a hook."""
    for name, part in block.named_modules():
        for _ in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            yield cards.get(name)
