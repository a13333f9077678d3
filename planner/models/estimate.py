"""A stand-in for the trace of a model whose forward does not run without data. Pure.

Each unit runs its Linears in order on one hidden state; eager attention adds its scores. It is an
estimate and says so: every segment is inexact, and the plan carries a note.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from planner.job import Job
from planner.models.traces import Call, Crossing, Event, ModelTrace, Segment
from planner.notes import Note

if TYPE_CHECKING:
    from planner.models.graph import ModuleInfo, Structure, Unit

TOKEN_BYTES = 8
FP32 = 4


def estimate_trace(
    units: Sequence["Unit"], structures: Sequence["Structure"], config: Any, job: Job, itemsize: int, reason: str
) -> ModelTrace:
    """A trace made of shapes alone, for these onload units in model order."""
    return _Estimate(units, structures, config, job, itemsize).trace(reason)


class _Estimate:
    def __init__(
        self, units: Sequence["Unit"], structures: Sequence["Structure"], config: Any, job: Job, itemsize: int
    ) -> None:
        self.units, self.structures, self.job, self.itemsize = units, structures, job, itemsize
        self.tokens = job.batch_size * job.seq_len
        self.hidden = self.tokens * int(getattr(config, "hidden_size", 0) or 0) * itemsize
        self.heads = int(getattr(config, "num_attention_heads", 0) or 0)

    def trace(self, reason: str) -> ModelTrace:
        targets = [unit for unit in self.units if unit.onload == "own subgraph"]
        crossings, segments = self._crossings(len(targets)), [self._head(bool(targets))]
        for index, unit in enumerate(targets, start=1):
            events = (*self._unit(unit), Event("alloc", 0, self.hidden, "hidden states"))
            writes = ((1 + index, 0),) if index < len(targets) else ()
            segments.append(Segment(index, unit.name, unit.structure, events, (index, 0), writes, exact=False))
        batch = 2 * self.tokens * TOKEN_BYTES
        text = f"Activations are estimated from the shapes of the Linears, not traced: {reason}"
        note = Note(kind="estimate", text=text)
        return ModelTrace(tuple(segments), crossings, batch // self.job.batch_size, batch, (note,))

    def _crossings(self, count: int) -> dict[int, Crossing]:
        """0: the tokens; 1 on: the hidden states between one unit and the next."""
        tokens = 2 * self.tokens * TOKEN_BYTES
        crossings = {0: Crossing(0, "input_ids", tokens, -1, max(0, count))}
        for index in range(count):
            crossings[1 + index] = Crossing(1 + index, "hidden_states", self.hidden, index, index + 1)
        return crossings

    def _head(self, feeds: bool) -> Segment:
        weights = (u for u in self.units if u.kind == "embedding")
        events = [Event("onload", bytes=u.bytes, name=f"{u.name}.weight") for u in weights]
        events.append(Event("alloc", 0, self.hidden, "hidden states"))
        return Segment(0, "", 0, tuple(events), (0,), ((1, 0),) if feeds else (), exact=False)

    def _unit(self, unit: "Unit") -> Iterator[Event]:
        structure = self.structures[unit.structure]
        for parameter in structure.parameters:
            yield Event("onload", bytes=parameter.bytes, name=parameter.name)
        yield from self._attention()
        for number, module in enumerate(m for m in structure.modules if m.itemsize and "Linear" in m.classes):
            yield from self._linear(module, 10 + 2 * number)

    def _attention(self) -> Iterator[Event]:
        """Eager attention: scores, an fp32 copy, its softmax."""
        scores = self.job.batch_size * self.heads * self.job.seq_len**2
        for number, nbytes in enumerate((scores * self.itemsize, scores * FP32, scores * FP32), start=1):
            yield Event("alloc", number, nbytes, ".attention scores")
        for number in (1, 2, 3):
            yield Event("free", number)

    def _linear(self, module: "ModuleInfo", number: int) -> Iterator[Event]:
        """Its input and its output beside each other; hooks see them as they would for real."""
        call = Call(
            module.name,
            self.tokens,
            module.columns,
            self.itemsize,
            True,
            (self.tokens, module.columns),
            (self.tokens, module.rows),
            self.itemsize,
        )
        yield Event("alloc", number, self.tokens * module.columns * self.itemsize, f"{module.name} input")
        yield Event("enter", call=call)
        yield Event("alloc", number + 1, self.tokens * module.rows * self.itemsize, f"{module.name} output")
        yield Event("exit", call=call)
        yield Event("free", number)
        yield Event("free", number + 1)
