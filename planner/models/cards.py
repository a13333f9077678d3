"""On which card each Linear of a layer is trained, where AutoRound has several: auto_round utils/device.py.

set_auto_device_map_for_block_with_tuning estimates what each Linear takes and deals them out; all else of the layer,
and what runs between its Linears, is on the first card. Sizes are floats in GiB there, and so they are here: of two
nearly equal cards the last digit decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.errors import JobError
from planner.models.tuned import Spread
from planner.units import GIB

HIGH_RISK = 0.9
"""The share of the first card from which on the second one keeps room for the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedLinear:
    """What the estimate asks of a Linear."""

    name: str
    bytes: int
    inputs: int
    outputs: int
    quantizes_inputs: bool


def cards_of_linears(
    linears: Sequence[PlacedLinear], spread: Spread, tokens: int, hidden: int, itemsize: int
) -> dict[str, int]:
    """The number of the GPU that each Linear is trained on.

    `tokens` are those of a sample, `hidden` the bytes of its hidden states, whose elements have `itemsize` bytes.
    estimate_tuning_block_mem and set_auto_device_map_for_block_with_tuning, of a layer that has no `config` of its own,
    as transformers' layers have none: a mixture of experts is estimated like any other. Raises JobError where the
    library stops.
    """
    if not linears:
        return {}
    batch = spread.batch * tokens * itemsize
    outputs = sum(batch * each.outputs / GIB * 2 for each in linears)
    sizes = {each.name: _size(each, batch) for each in linears}
    used = 0 + outputs + (outputs + 1)
    card = spread.card_bytes / GIB
    left = max(0, card - used)
    loss = 2 * (spread.samples * hidden) / GIB / 2
    second = max(0, card - loss) if used / card >= HIGH_RISK else card
    total = left + second + sum(card for _ in range(2, spread.cards))
    if not total:
        raise JobError(
            f"LLM Compressor stops here: AutoRound divides by the room that it sees on {spread.cards} GPUs of "
            f"{card:.0f} GiB, which is none; take fewer or shorter samples, or name one GPU in device_ids"
        )
    each_takes = total / sum(sizes.values())
    places = _dealt(sizes, [left, *(card for _ in range(1, spread.cards))], each_takes)
    return {name: spread.gpus[place] for name, place in places.items()}


def _size(linear: PlacedLinear, batch: int) -> float:
    """Weight and rounding, and the input where it is quantized; twice, for gradients."""
    size = linear.bytes / GIB
    size *= 2
    if linear.quantizes_inputs:
        size += batch * linear.inputs / GIB
    return size * 2


def _dealt(sizes: Mapping[str, float], room: list[float], each_takes: float) -> dict[str, int]:
    """`_allocate_layers_to_devices`: the largest to the last cards, one each; then by room and neighbours.

    Each card by its place among those that are named.
    """
    order = {name: number for number, name in enumerate(sizes)}
    names, found = list(sizes), dict[str, int]()
    for place, name in enumerate(sorted(sizes, key=lambda name: (-sizes[name], -order[name]))):
        estimated = sizes[name] * each_takes
        if place < len(room) - 1:
            card = len(room) - 1 - place
        else:
            beside = [names[i] for i in (order[name] - 1, order[name] + 1) if 0 <= i < len(names)]
            scores = {
                card: free / estimated + sum(1.0 for other in beside if found.get(other) == card)
                for card, free in enumerate(room)
                if free >= estimated
            }
            card = max(scores, key=lambda card: scores[card]) if scores else room.index(max(room))
        found[name] = card
        room[card] -= estimated
    return found
