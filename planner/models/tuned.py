"""One decoder layer trained as AutoRound trains it, as plain data: what is asked for, and what a trace answers.

A trace of calibration (`ModelTrace`) depends on model and batch alone. What runs while a layer is trained depends on
the recipe too: its Linears quantize their weights anew in every forward. So it lies beside that trace: one `TunedBlock`
for each kind of layer that is trained in one way.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from planner.models.traces import Event

WeightType = Literal["int_sym", "int_asym", "mx_fp", "nv_fp", "fp8"]
Place = Literal["input", "output", "query", "key"]
InputType = Literal["int_sym", "mx_fp", "nv_fp", "fp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTuning:
    """How a Linear is quantized while it is trained: auto_round/schemes.py QuantizationScheme."""

    weights: WeightType
    bits: int
    group: int
    """Columns that share a scale; -1: a row, 0: the whole weight."""
    inputs: InputType | None = None
    """None: inputs stay as they are."""
    input_bits: int = 16
    input_group: int = -1
    static: bool = False
    """The inputs' range is taken from samples before, instead of from each input."""
    global_range: bool = False
    """The same, and it is one number: auto_round/algorithms/composer.py `_register_act_max_hooks` of NVFP4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How the weights of a layer that is not trained (`iters: 0`) are rounded."""

    sees_data: bool
    """All samples go through the layer first, and each Linear sums the squares of its inputs."""
    searches: bool
    """Each scale is searched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineRotation:
    """A matrix that another modifier's hooks multiply with: compressed_tensors transform/transform_args.py."""

    name: str
    """Of the transform, a part of the module."""
    module: str
    """Name in the layer (`.mlp.down_proj`)."""
    place: Place
    size: int
    dtype: str = "float64"
    inverse: bool = False
    """The matrix turned round."""
    scales: bool = True
    """The product is divided by a number."""
    permutes: bool = False
    """Rows and columns of the matrix are gathered in another order for each product."""
    waits: bool = False
    """It lies on the CPU, wherever the weights do."""
    label: str
    """What the books call its matrix, which hooks share."""


def alone(rotations: Sequence[OnlineRotation]) -> frozenset[int]:
    """Numbers of those that their hooks alone have, in the order in which modifiers made them: a later one has the name
    in the module, from whatever modifier it is (factory/base.py `_apply_to_module` registers both)."""
    last = {(rotation.module, rotation.name): number for number, rotation in enumerate(rotations)}
    return frozenset(range(len(rotations))).difference(last.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Several cards that a layer is spread over, all of one size."""

    gpus: tuple[int, ...]
    """Their numbers, in the order in which they are named."""
    card_bytes: int
    samples: int
    """All that are kept."""
    batch: int
    """The modifier's own batch size, by which memory is estimated."""

    @property
    def cards(self) -> int:
        """How many."""
        return len(self.gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRequest:
    """A layer to be trained, and the batches that it is trained with."""

    layer: str
    """Full name of a sequential target."""
    linears: tuple[tuple[str, LinearTuning], ...]
    """Names in the layer (`.self_attn.q_proj`), in model order."""
    rows: int
    """Rows of the first dimension in a whole batch of a pass over all samples."""
    last_rows: int
    """Rows of the last batch of a pass; 0 where all are whole."""
    trained: tuple[int, ...]
    """Rows of a batch that is trained, in the parts in which it goes through the layer."""
    rounding: Rounding | None = None
    """None: it is trained. Else nothing is: of the phases there are at most `observed` and `unwrap`."""
    rotations: tuple[OnlineRotation, ...] = ()
    """What other modifiers have hooked, in the order in which they did."""
    spread: Spread | None = None
    """None: one card."""
    has_ranks: bool = False
    """Ranks of a torchrun job train it together, each on its own samples."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The different sizes of batches, whole ones first."""
        return (self.rows, self.last_rows) if self.last_rows else (self.rows,)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftMatrix:
    """A matrix that another modifier's hook has in the layer, or its permutation."""

    number: int
    """Its place in `TunedBlock.weights`."""
    label: str
    """What the books call it while hooks share it."""
    waits: bool
    """It lies on the CPU, wherever the weights do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedBlock:
    """What the GPU holds while one layer is trained, in phases that follow one another.

    Ids count through all phases, in the order of the fields. Weights of the layer and what lies on the CPU are not
    among the events. Of each pass there is one batch of each size that it has (`TuningRequest.sizes`): it leaves
    nothing behind.
    """

    reference: tuple[tuple[Event, ...], ...]
    """A batch forward without gradients."""
    observed: tuple[tuple[Event, ...], ...]
    """The same with hooks that take the range of the inputs; empty where no range is static."""
    wrap: tuple[Event, ...]
    """Ranges of the weights and what is trained, for each Linear; the optimizer."""
    iteration: tuple[Event, ...]
    """Forward, loss, backward, a step of the optimizer. All iterations are equal but for their ids: each gives back
    what the one before it left."""
    found: tuple[int, ...]
    """Ids of what the iteration before left; in the first there is nothing."""
    orders: tuple[tuple[Event, ...], ...] = ()
    """The same where the first card's thread is far ahead of the others in backward, and where it is far behind them
    (planner/models/threads.py). They are not played. None on one card."""
    unwrap: tuple[Event, ...]
    """After the last iteration: the weights quantized with the best rounding, each of them once."""
    collect: tuple[tuple[Event, ...], ...]
    """A batch forward through the quantized layer."""
    weights: tuple[int, ...]
    """Bytes of each parameter and buffer of the layer, in the order of its modules."""
    output: int
    """Bytes of the layer's output, for one row of a batch."""
    trained: tuple[int, ...]
    """Bytes of each tensor that the optimizer changes."""
    names: tuple[str, ...] = ()
    """Of each of `weights` in the layer (`.self_attn.q_proj.weight`)."""
    rotations: tuple[LeftMatrix, ...] = ()
    """Those of `weights` that other modifiers left there."""
    cards: tuple[int, ...] = ()
    """The card of each of `weights`; empty for a layer on one card."""
    placed: tuple[int, ...] = ()
    """Places in `weights` of what accelerate's hooks take to their cards, in their order."""
    kept: frozenset[int]
    """What is still there at the end: because it refers to itself, until Python's collector runs, or"""
    stays: frozenset[int] = frozenset()
    """because it is on the modules, to the end of the job."""
    unruled: frozenset[str] = frozenset()
    """Operators of which planner/cuda does not know what they take from a CUDA build's allocator."""

    def phases(self) -> Iterator[tuple[Event, ...]]:
        """All events, phase by phase."""
        yield from (*self.reference, *self.observed, self.wrap, self.iteration, self.unwrap, *self.collect)


def left(events: Iterable[Event]) -> tuple[int, ...]:
    """Ids that a phase takes and does not give back, in the order of their birth."""
    born: dict[int, None] = {}
    for event in events:
        if event.kind == "alloc":
            born[event.id] = None
        elif event.kind == "free":
            born.pop(event.id, None)
    return tuple(born)


def replaced(before: Iterable[Event], events: Iterable[Event]) -> tuple[int, ...]:
    """Ids of what one phase leaves and the next one gives back; what it changes in place is not among them."""
    freed = {event.id for event in events if event.kind == "free"}
    return tuple(number for number in left(before) if number in freed)


def card_peaks(block: TunedBlock) -> dict[int, int]:
    """The most bytes that each card holds while the layer is trained, with the weights that lie there.

    Without them for a layer on one card, of whose weights nothing says where they lie.
    """
    return _peaks(block, block.phases())


def most_of_any_order(block: TunedBlock) -> dict[int, int]:
    """The same, in whatever order autograd's threads come to their work, as far as orders were traced."""
    before = (*block.reference, *block.observed, block.wrap)
    found = [card_peaks(block), *(_peaks(block, (*before, order)) for order in block.orders)]
    return {card: max(peaks.get(card, 0) for peaks in found) for card in found[0]}


def _peaks(block: TunedBlock, phases: Iterable[tuple[Event, ...]]) -> dict[int, int]:
    held = Counter(dict.fromkeys((0, *block.cards), 0))
    for card, nbytes in zip(block.cards, block.weights if block.cards else (), strict=True):
        held[card] += nbytes
    peaks, live = dict(held), dict[int, tuple[int, int]]()
    for event in chain.from_iterable(phases):
        if event.kind == "alloc":
            live[event.id] = event.card, event.bytes
            held[event.card] += event.bytes
            peaks[event.card] = max(peaks.get(event.card, 0), held[event.card])
        elif event.kind == "free" and event.id in live:
            card, nbytes = live.pop(event.id)
            held[card] -= nbytes
    return peaks
