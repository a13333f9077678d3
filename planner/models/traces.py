"""A traced forward as plain data, which needs no torch to be read.

A trace is a list of events in execution order. Value ids are local to their segment; a negative
id never occurs. The simulation replays events; it never asks what operator made them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from planner.notes import Note
from planner.timeline import MemoryEvent

EventKind = Literal["alloc", "free", "onload", "enter", "exit", "product"]
CUDA = "cuda"
"""Category of what PyTorch's CUDA build alone takes beside results (planner/cuda), in true order."""
COUNTED = "cuda_workspace"
"""Category of the few of these that the counting device sees too."""

KEY_STATES, VALUE_STATES, QUERY_STATES = "kv_cache.key", "kv_cache.value", "impl.query"
"""Below an attention: keys and values as its cache gets them, and queries. They are called like modules, by `enter`
events alone: rows are tokens, columns all heads side by side, and `contiguous` says whether they lie so."""


@dataclass(frozen=True, slots=True)
class CallValue:
    """One tensor among the arguments or the outputs of a call."""

    name: str
    """The parameter's name in the forward's signature, `output` for what it returns; what lies inside a tuple or a
    dictionary has its place behind a dot (`position_embeddings.0`)."""
    bytes: int
    """Bytes of a copy: numel * itemsize. A tensor that is a view holds the whole storage behind it."""
    dims: tuple[int, ...] = ()
    """Shape."""
    storage: int = -1
    """Id of the segment's allocation behind it; -1 for a tensor that is older than the segment."""
    read: int = -1
    """For a tensor that is older than the segment: its place among `Segment.reads`; -1 where it crossed no border."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module, as its forward hooks see it: a Linear, a norm, a block of several modules.

    *The input* is the first tensor among the arguments, *the output* the first tensor of what is returned.
    """

    module: str
    """Full name; below the segment's target, the name from a leading dot on (`.self_attn.q_proj`)."""
    rows: int
    """Rows of the input once flattened to (rows, in_features)."""
    columns: int
    itemsize: int
    """Bytes of one input element."""
    contiguous: bool
    dims: tuple[int, ...]
    """Shape of the input."""
    output: tuple[int, ...] = ()
    output_itemsize: int = 0
    arguments: tuple[CallValue, ...] = ()
    """Every tensor that is passed, by position first; the model's own parameters and buffers are left out."""
    outputs: tuple[CallValue, ...] = ()
    """Every tensor that is returned, a block's attention probabilities too. Empty before the call."""
    leads: bool = True
    """The input is the first argument by position: a hook without keywords gets what is passed by position."""
    others: tuple[str, ...] = ()
    """Other arguments by position that are not their defaults: a hook that returns one tensor leaves them out."""
    must_have: bool = False
    """One of them has no default."""
    holds_targets: bool = False
    """Of a module that holds sequential targets, which is no event."""
    in_graph: bool = False
    """What its hooks compute are nodes of a graph that can be traced with them."""


@dataclass(frozen=True, slots=True)
class Event:
    """alloc: `operator` in the forward of `module` allocates `bytes` as `id`. free: `id` is freed. onload: `parameter`
    is touched. enter/exit: the hooks of `call` run before and after that module's forward; a block's enclose those of
    the modules that it calls. product: cuBLAS multiplies here; `operator` names the thread, if it is not Python's.

    Names of modules and parameters are full; below the segment's target they start with a dot instead.
    """

    kind: EventKind
    id: int = 0
    bytes: int = 0
    module: str = ""
    operator: str = ""
    parameter: str = ""
    call: Call | None = None
    category: str = "forward"
    """Kind of memory: `forward`; `cuda`; or `cuda_workspace`, a part of the latter as the counting device has it, which
    takes its place in a simulation without a CUDA build."""
    dims: tuple[int, ...] = ()
    """Shape of the tensor that is allocated, and its"""
    dtype: str = ""
    """type; empty where it is not known."""
    card: int = 0
    """The card on which it is, where a layer is spread over several."""

    @property
    def name(self) -> str:
        """The parameter, or module and operator, in one text."""
        return self.parameter or f"{self.module} {self.operator}".strip()


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tensor that crosses a subgraph border, so that the activation cache holds it."""

    id: int
    name: str
    bytes: int
    """Bytes of the copy in the cache: numel * itemsize of what is passed."""
    producer: int
    """Index of the segment that makes it; -1 for the calibration batch."""
    last_reader: int
    """Index of the last segment that reads it."""
    batched: bool = True
    """Its size grows with the number of samples in the batch."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What runs from one sequential target (included) to the next (excluded).

    Segment 0 is the head: all that runs before the first target.
    """

    index: int
    target: str
    """Full name of the sequential target's module; empty for the head."""
    structure: int
    """Segments with equal numbers have the same events up to the names' prefix."""
    events: tuple[Event, ...]
    reads: tuple[int, ...]
    """Ids of the crossings that this segment reads."""
    writes: tuple[tuple[int, int], ...]
    """(crossing id, local value id) of the crossings that it makes."""
    exact: bool = True
    items: frozenset[int] = frozenset()
    """Those reads that have a name of their own here: an item that is taken out of a dictionary for every layer."""


@dataclass(frozen=True, slots=True)
class ModelTrace:
    """A whole calibration forward of one batch, cut at the sequential targets."""

    segments: tuple[Segment, ...]
    crossings: dict[int, Crossing]
    sample_bytes: int
    """Bytes of one calibration sample as the dataset holds it."""
    batch_bytes: int
    """Bytes of one collated batch."""
    notes: tuple[Note, ...] = field(default=())
    unruled: frozenset[str] = frozenset()
    """Operators of which planner/cuda does not know what they take from a CUDA build's allocator."""
    wrapped: frozenset[str] = frozenset()
    """Modules that a wrapped function calls: `sequential_epoch_end` never sees them."""
    held: Mapping[str, tuple[Call, ...]] = field(default_factory=dict)
    """Calls of the modules that hold sequential targets, by full name; the model itself goes by none."""
    unread: frozenset[str] = frozenset()
    """Weights, by full name, that no segment reads."""
    iterated: frozenset[str] = frozenset()
    """Lists and sequences of modules that somebody goes through as a whole."""

    def names(self) -> dict[int, str]:
        """Names of the crossings, numbered where one segment makes several of one name (cos and sin, two masks)."""
        alike: dict[tuple[int, str], list[int]] = {}
        for number, crossing in self.crossings.items():
            alike.setdefault((crossing.producer, crossing.name), []).append(number)
        return {
            number: name if len(numbers) == 1 else f"{name}.{position}"
            for (_, name), numbers in alike.items()
            for position, number in enumerate(numbers)
        }


def memory_events(events: Iterable[Event]) -> Iterator[MemoryEvent]:
    """The allocations and frees among these events, without a CUDA build's own.

    A free without its allocation among them is left out.
    """
    sizes: dict[int, int] = {}
    for event in events:
        if event.category == CUDA:
            continue
        if event.kind == "alloc":
            sizes[event.id] = event.bytes
            yield event.id, event.bytes, 1
        elif event.kind == "free" and event.id in sizes:
            yield event.id, sizes.pop(event.id), -1


def full_name(target: str, name: str) -> str:
    """`.self_attn.q_proj` below the target model.layers.0; a name without the leading dot is full already."""
    if not name.startswith("."):
        return name or "model"
    return (target + name).rstrip(".")
