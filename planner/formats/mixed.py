"""Mixed precision: which tensors keep more bits while not all can.

The order is one of thumb, made of what llama.cpp's mixtures raise first; it is not a measurement. ExLlamaV2
(exllamav2/conversion/optimize.py) and ExLlamaV3 measure the error of each matrix on real data instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from planner.errors import JobError
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Stored, StoredModel, Weight
from planner.units import format_bytes

Role = Literal["head", "value", "key", "query", "output", "down", "gate and up", "other"]
Place = Literal["outer", "third", "inner"]

# llama.cpp src/llama-quant.cpp: attn_qkv and attn_kv_b count as attn_v (category_is_attn_v). The low-rank key-value
# projection that feeds kv_b is small and on the same way, so it goes with it here.
_ROLES: tuple[tuple[Role, tuple[str, ...]], ...] = (
    ("value", ("v_proj", "qkv_proj", "query_key_value", "wqkv", "c_attn", "kv_b_proj", "kv_a_proj_with_mqa")),
    ("key", ("k_proj",)),
    ("query", ("q_proj", "q_a_proj", "q_b_proj")),
    ("output", ("o_proj", "out_proj", "dense")),
    ("down", ("down_proj", "w2", "fc2", "dense_4h_to_h", "fc_out")),
    ("gate and up", ("gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "fc1", "dense_h_to_4h", "fc_in", "c_fc")),
)
_EVERYWHERE: tuple[Place, ...] = ("outer", "third", "inner")
_PLACES: dict[Place, str] = {
    "outer": "first and last eighth of layers",
    "third": "every third layer between",
    "inner": "the layers between",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """Tensors that are raised layer by layer, those of one layer together."""

    roles: tuple[Role, ...]
    places: tuple[Place, ...] = _EVERYWHERE
    lead: int = 1
    """Choices above the lowest one of the round that they are raised to."""
    experts: bool | None = None
    """Routed experts alone, all but them, or both."""

    def __str__(self) -> str:
        """In words: `down (first and last eighth of layers)`."""
        who = ", ".join(self.roles) + (" of experts" if self.experts else "")
        where = "" if self.places == _EVERYWHERE else f" ({' and '.join(_PLACES[place] for place in self.places)})"
        lead = "" if self.lead == 1 else f", {self.lead} choices up"
        return who + where + lead

    def takes(self, weight: Weight, layers: int) -> bool:
        """Whether this weight of a model with so many decoder layers is meant."""
        if role_of(weight) not in self.roles or self.experts not in (None, weight.is_expert):
            return False
        return weight.layer is None or place_of(weight.layer, layers) in self.places


@dataclass(frozen=True, slots=True, kw_only=True)
class MixturePart:
    """Tensors of one role that have one choice."""

    role: Role
    layers: str
    """Ranges of layer numbers: `0-9, 70-79`; `-` where they are in no layer."""
    choice: str
    tensors: int
    elements: int
    bits: float
    """Average bits per weight in the file, scales included."""
    file_bytes: int
    gpu_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What every quantizable tensor is kept as."""

    choices: tuple[str, ...]
    """From the smallest to the largest."""
    tensors: tuple[Stored, ...]
    rungs: tuple[int, ...]
    """For each tensor, the index of its choice in `choices`."""
    budget_bytes: int
    """GPU memory that they may take together."""

    @property
    def gpu_bytes(self) -> int:
        return sum(tensor.gpu_bytes for tensor in self.tensors)

    @property
    def file_bytes(self) -> int:
        return sum(tensor.file_bytes for tensor in self.tensors)

    @property
    def elements(self) -> int:
        return sum(tensor.weight.elements for tensor in self.tensors)

    @property
    def bits(self) -> Fraction:
        """Average bits per quantizable weight in the file, scales included."""
        return Fraction(8 * self.file_bytes, self.elements)

    @property
    def left_bytes(self) -> int:
        """What is left of the budget: too little to raise what comes next."""
        return self.budget_bytes - self.gpu_bytes

    def parts(self) -> tuple[MixturePart, ...]:
        """The tensors by role and choice, largest choice first within a role."""
        grouped: dict[tuple[Role, int], list[Stored]] = {}
        for tensor, rung in zip(self.tensors, self.rungs, strict=True):
            grouped.setdefault((role_of(tensor.weight), rung), []).append(tensor)
        names: tuple[Role, ...] = ("head", *(role for role, _ in _ROLES), "other")
        keys = sorted(grouped, key=lambda key: (names.index(key[0]), -key[1]))
        return tuple(_part(role, self.choices[rung], grouped[role, rung]) for role, rung in keys)


def role_of(weight: Weight) -> Role:
    """What the tensor does, by the last part of its module's name."""
    if weight.unit in ("head", "embedding"):  # an embedding that the choices keep differently is a tied head
        return "head"
    if weight.unit != "decoder":
        return "other"
    last = weight.module.rpartition(".")[2].lower()
    if last == "c_proj":  # GPT-2 calls both so
        return "output" if ".attn." in weight.name else "down"
    return next((role for role, names in _ROLES if last in names), "other")


def place_of(layer: int, layers: int) -> Place:
    """llama.cpp src/llama-quant.cpp use_more_bits: the first and last eighth, and every third layer between."""
    eighth = layers // 8
    if layer < eighth or layer >= 7 * layers // 8:
        return "outer"
    return "third" if (layer - eighth) % 3 == 2 else "inner"


def default_order(served: ServedModel) -> tuple[Upgrade, ...]:
    """Who is raised first in each round, after llama.cpp src/llama-quant.cpp llama_tensor_get_type.

    Head: Q6_K in every mixture of K-quants. attn_v: two types up in Q2_K where four or more heads share keys and
    values, else one; Q8_0 with eight experts, as attn_k, with attn_output Q5_K (taken here for any number of
    experts: attention is a small part of all of them). ffn_down: up in use_more_bits layers (Q4_K_M, Q5_K_M), then
    everywhere with attn_output (Q2_K, Q3_K_M, Q3_K_L). ffn_gate, ffn_up: up in the outer eighths (IQ3_XS).
    attn_k, attn_q and the rest are never raised (IQ3_XXS lowers attn_k and attn_q), so they come last.
    """
    many, shared = served.experts > 1, served.attention_heads >= 4 * max(1, served.kv_heads)
    attention = (Upgrade(roles=("key",), lead=3), Upgrade(roles=("output",), lead=2)) if many else ()
    return (
        Upgrade(roles=("head",), lead=4),
        Upgrade(roles=("value",), lead=3 if many else 2 if shared else 1),
        *attention,
        Upgrade(roles=("down",), places=("outer",)),
        Upgrade(roles=("down",), places=("third",)),
        Upgrade(roles=("output",)),
        Upgrade(roles=("down",), places=("inner",)),
        Upgrade(roles=("gate and up",), places=("outer",)),
        Upgrade(roles=("key",)),
        Upgrade(roles=("query",)),
        Upgrade(roles=("gate and up",), places=("third", "inner")),
        Upgrade(roles=("other",)),
    )


def fused_order(served: ServedModel) -> tuple[Upgrade, ...]:
    """The same for vLLM, where what it fuses must be kept alike.

    q, k and v are one matrix there, gate and up another, the experts of a layer one kernel
    (vllm/model_executor/layers/quantization/compressed_tensors/utils.py should_ignore_layer raises for "different
    quantization schemes"; fused_moe/layer.py has one quant_method a layer). A fused q, k, v is what llama.cpp calls
    attn_qkv, and raises as attn_v.
    """
    experts: tuple[tuple[Place, ...], ...] = (("outer",), ("third",), ("inner",)) if served.experts > 1 else ()
    inside: tuple[Place, ...] = ("third", "inner")
    return (
        Upgrade(roles=("head",), lead=4),
        Upgrade(roles=("value", "key", "query")),
        Upgrade(roles=("down",), places=("outer",), experts=False),
        Upgrade(roles=("down",), places=("third",), experts=False),
        Upgrade(roles=("output",)),
        Upgrade(roles=("down",), places=("inner",), experts=False),
        Upgrade(roles=("gate and up",), places=("outer",), experts=False),
        Upgrade(roles=("gate and up",), places=inside, experts=False),
        *(Upgrade(roles=("down", "gate and up"), places=where, experts=True) for where in experts),
        Upgrade(roles=("other",)),
    )


def quantizable(choices: Sequence[StoredModel]) -> tuple[int, ...]:
    """Positions of the tensors that the choices keep differently on the GPU."""
    lowest, highest = choices[0].tensors, choices[-1].tensors
    return tuple(n for n, (a, b) in enumerate(zip(lowest, highest, strict=True)) if a.gpu_bytes != b.gpu_bytes)


def allocate(choices: Sequence[StoredModel], budget: int, order: Sequence[Upgrade], layers: int) -> Allocation:
    """Start every quantizable tensor at the first, smallest choice; raise them in order while the budget lasts.

    A choice is the whole model in one format. A round goes through the steps once, layer by layer, and raises to
    one choice (more with a lead) above the round's lowest; the first layer that does not fit ends it, so that a
    larger budget never lowers a tensor. `budget`: bytes of GPU memory for the quantizable tensors together.

    Raises JobError where the smallest choice is too large.
    """
    chosen = quantizable(choices)
    rungs = [0] * len(chosen)
    used = sum(choices[0].tensors[n].gpu_bytes for n in chosen)
    if used > budget:
        raise JobError(f"{choices[0].format} needs {format_bytes(used)}, there are {format_bytes(budget)}")
    weights = [choices[0].tensors[n].weight for n in chosen]

    def bytes_at(rung: int, index: int) -> int:
        return choices[rung].tensors[chosen[index]].gpu_bytes

    for indices, rung in _raises(weights, order, layers, len(choices)):
        raised = [index for index in indices if rungs[index] < rung]
        cost = sum(bytes_at(rung, index) - bytes_at(rungs[index], index) for index in raised)
        if used + cost > budget:
            break
        used += cost
        for index in raised:
            rungs[index] = rung
    return Allocation(
        choices=tuple(choice.format for choice in choices),
        tensors=tuple(choices[rung].tensors[n] for n, rung in zip(chosen, rungs, strict=True)),
        rungs=tuple(rungs),
        budget_bytes=budget,
    )


def mixed_model(choices: Sequence[StoredModel], allocation: Allocation) -> StoredModel:
    """The whole model with its quantizable tensors as allocated; the others as the smallest choice keeps them."""
    tensors = list(choices[0].tensors)
    for position, tensor in zip(quantizable(choices), allocation.tensors, strict=True):
        tensors[position] = tensor
    notes = tuple(dict.fromkeys(note for choice in choices for note in choice.notes))
    return StoredModel(
        format=" + ".join(allocation.choices),
        tensors=tuple(tensors),
        other_file_bytes=choices[0].other_file_bytes,
        schemes=tuple(dict.fromkeys(scheme for choice in choices for scheme in choice.schemes)),
        notes=notes,
    )


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as ranges: `0-9, 12, 70-79`."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in found) or "-"


def _raises(
    weights: Sequence[Weight], order: Sequence[Upgrade], layers: int, choices: int
) -> Iterator[tuple[Sequence[int], int]]:
    """Which tensors go to which choice together, in the order of time."""
    members: list[dict[int | None, list[int]]] = []
    for step in order:
        members.append({})
        for index, weight in enumerate(weights):
            if step.takes(weight, layers):
                members[-1].setdefault(weight.layer, []).append(index)
    for base in range(choices - 1):
        for step, by_layer in zip(order, members, strict=True):
            for indices in by_layer.values():
                yield indices, min(base + step.lead, choices - 1)


def _part(role: Role, choice: str, tensors: Sequence[Stored]) -> MixturePart:
    elements = sum(tensor.weight.elements for tensor in tensors)
    file_bytes = sum(tensor.file_bytes for tensor in tensors)
    return MixturePart(
        role=role,
        layers=ranges([tensor.weight.layer for tensor in tensors if tensor.weight.layer is not None]),
        choice=choice,
        tensors=sum(tensor.weight.copies for tensor in tensors),
        elements=elements,
        bits=8 * file_bytes / elements,
        file_bytes=file_bytes,
        gpu_bytes=sum(tensor.gpu_bytes for tensor in tensors),
    )
