"""Plays the phases of a layer that is trained on the books (planner/models/tuned.py)."""

from collections.abc import Iterable, Sequence

from planner.compress.context import Context
from planner.compress.holdings import Mark, Owner
from planner.models.traces import Event
from planner.models.tuned import TunedBlock, left
from planner.notes import Note
from planner.recipe.qparams import activation_qparam_sizes, weight_qparam_bytes
from planner.recipe.targets import LinearModule
from planner.timeline import Handle

Events = tuple[Event, ...]

WALKED = 4
"""Equal iterations that are walked before the others are passed over, if these show that they change nothing."""


def data_parallel(where: str) -> Note:
    """planner/models/joined.py: what of it is counted, and what is not."""
    text = (
        "ranks train each layer together, in DistributedDataParallel, each on its own samples: it takes about 4 bytes "
        "more of each card for each weight of the layer that is rounded, which are counted"
    )
    return Note(kind="job", text=f"{where}: {text}")


class TrainedLayer:
    """One layer while it is trained: the tensors that its phases leave to one another."""

    def __init__(self, context: Context, layer: str, block: TunedBlock) -> None:
        self.context, self.layer, self.block = context, layer, block
        self._live: dict[int, Handle] = {}
        self._carried: list[Handle | None] = []
        """What one of several equal phases leaves to the next; None for what lies on a card without books."""

    def play(self, events: Events, kind: str) -> None:
        """Take and give back what the phase does, in its order."""
        ledger, left_out = self.context.ledger, self.context.forward.left_out
        for event in events:
            if event.category == left_out:
                continue
            if event.kind == "alloc":
                card = self.context.card(event.card)
                if card is not None:
                    owner = Owner((self.layer + event.module).rstrip("."), event.operator)
                    self._live[event.id] = ledger.alloc(card, event.bytes, self._kind(event, kind), owner)
            elif event.kind == "free":
                if event.id in self._live:  # the first iteration finds nothing of one before it
                    ledger.free(self._live.pop(event.id))
            elif event.kind == "product":
                card = self.context.card(event.card)
                if card is not None:
                    self.context.multiply(card, event.operator)

    def _kind(self, event: Event, kind: str) -> str:
        """What stays is AutoRound's, whatever it was made in."""
        if event.id in self.block.kept:
            return "autoround"
        return kind if event.category == "forward" else event.category

    def carry(self, events: Events, kind: str, found: Sequence[int] = (), leaves: Sequence[int] | None = None) -> None:
        """Play one of several equal phases, which finds what the one before it left and leaves the same itself.

        `found`: how the phase calls what it finds, if there is any; `leaves`: what it hands on, None for all that it
        leaves.
        """
        if self._carried:
            self._find(found)
        self.play(events, kind)
        self._carried = [self._live.pop(number, None) for number in (left(events) if leaves is None else leaves)]

    def settle(self, events: Events) -> None:
        """The equal phases are over: what was carried lies where this one leaves it."""
        self._find(left(events))
        self._carried = []

    def _find(self, numbers: Sequence[int]) -> None:
        """What was carried has these numbers from here on."""
        pairs = zip(numbers, self._carried, strict=True)
        self._live.update((number, handle) for number, handle in pairs if handle is not None)

    def iterate(self, iterations: int) -> None:
        """All iterations; of equal ones the first few, if these show that the others change nothing."""
        block, ledger, marks = self.block, self.context.ledger, list[Mark]()
        for number in range(iterations):
            marks.append(ledger.mark())
            self.carry(block.iteration, "autoround", block.found)
            rest = iterations - 1 - number
            if self.context.shortcuts.batches and len(marks) == WALKED + 1 and ledger.again(marks[1:], rest):
                break
        self.settle(block.iteration)

    def kept(self) -> list[Handle]:
        """What refers to itself, and all else that is still there, but for what stays on the modules."""
        return [self._live.pop(number) for number in sorted(self._live) if number not in self.block.stays]


def all_qparams(module: LinearModule) -> Iterable[tuple[str, int]]:
    """Names and bytes, in the order of quantization/quant_metadata.py all_qparam_names."""
    scheme = module.scheme
    if scheme is None:
        return
    parts = (
        ("input", activation_qparam_sizes(module, scheme.input_activations)),
        ("weight", weight_qparam_bytes(module)),
    )
    for part, sizes in parts:
        for name in ("global_scale", "scale", "zero_point"):
            if name in sizes:
                yield f"{part}_{name}", sizes[name]
