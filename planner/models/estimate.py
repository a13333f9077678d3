"""A stand-in for the trace of a model whose forward does not run without data. Pure.

Each unit runs its Linears in order on one hidden state; eager attention adds its scores. Units that follow a
sequential target run in that target's subgraph. The trace is marked as an estimate: every segment is inexact, and the
plan carries a note.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from planner.errors import UnsupportedError
from planner.job import Job
from planner.models.traces import Call, CallValue, Crossing, Event, ModelTrace, Segment
from planner.notes import Note
from planner.units import FP32

if TYPE_CHECKING:
    from planner.models.graph import ModuleInfo, Structure, Unit

TOKEN_BYTES = 8


def estimate_trace(
    units: Sequence["Unit"], structures: Sequence["Structure"], config: Any, job: Job, itemsize: int, reason: str
) -> ModelTrace:
    """A trace made of shapes alone, for these onload units in model order.

    Raises UnsupportedError where nothing says how wide the hidden states are.
    """
    return _Estimate(units, structures, config, job, itemsize).trace(reason)


class _Estimate:
    def __init__(
        self, units: Sequence["Unit"], structures: Sequence["Structure"], config: Any, job: Job, itemsize: int
    ) -> None:
        self.units, self.structures, self.job, self.itemsize = units, structures, job, itemsize
        self.tokens = job.batch_size * job.seq_len
        self.width = int(getattr(config, "hidden_size", 0) or 0)
        self.heads = int(getattr(config, "num_attention_heads", 0) or 0)

    def trace(self, reason: str) -> ModelTrace:
        targets = [unit for unit in self.units if unit.is_target]
        sizes = self._hidden(targets)
        crossings, segments = self._crossings(sizes), [self._head(sizes[:1])]
        for index, unit in enumerate(targets, start=1):
            after = sizes[index : index + 1] or sizes[-1:]
            events = (*self._run([unit, *self._behind(unit)]), Event("alloc", 0, after[0], operator="hidden states"))
            writes = ((1 + index, 0),) if index < len(targets) else ()
            segments.append(Segment(index, unit.name, unit.structure, events, (index, 0), writes, exact=False))
        batch = 2 * self.tokens * TOKEN_BYTES
        notes = tuple(Note(kind="estimate", text=text) for text in self._notes(reason))
        return ModelTrace(tuple(segments), crossings, batch // self.job.batch_size, batch, notes)

    def _notes(self, reason: str) -> Iterator[str]:
        yield f"Activations are estimated from the shapes of the Linears, not traced: {reason}"
        if not self.heads:
            yield "The estimate leaves attention scores out: the config does not say how many heads there are."

    def _hidden(self, targets: Sequence["Unit"]) -> list[int]:
        """Bytes of the hidden states that each target reads. Their width is the config's, else the input width of the
        target's first Linear; a target without Linears passes them on to the next."""
        widths = [self.width or self._columns(unit) for unit in targets]
        known = [width for width in widths if width]
        if targets and not known:
            raise UnsupportedError(
                f"{targets[0].name}: neither the config nor a Linear says how wide the hidden states are"
            )
        after = known[-1:]
        for index in reversed(range(len(widths))):
            after = [widths[index]] if widths[index] else after
            widths[index] = after[0]
        return [self.tokens * width * self.itemsize for width in widths]

    def _columns(self, unit: "Unit") -> int:
        return next((linear.columns for linear in self._linears(unit)), 0)

    def _linears(self, unit: "Unit") -> list["ModuleInfo"]:
        return [m for m in self.structures[unit.structure].modules if m.itemsize and "Linear" in m.classes]

    def _crossings(self, sizes: Sequence[int]) -> dict[int, Crossing]:
        """Crossing 0 holds the tokens; 1 and on hold the hidden states between one unit and the next."""
        tokens = 2 * self.tokens * TOKEN_BYTES
        crossings = {0: Crossing(0, "input_ids", tokens, -1, len(sizes))}
        for index, hidden in enumerate(sizes):
            crossings[1 + index] = Crossing(1 + index, "hidden_states", hidden, index, index + 1)
        return crossings

    def _head(self, feeds: Sequence[int]) -> Segment:
        """The embedding; `feeds` is what the first unit reads, if there is one."""
        weights = (u for u in self.units if u.kind == "embedding" and not u.is_target)
        events = [Event("onload", bytes=u.bytes, parameter=f"{u.name}.weight") for u in weights]
        if feeds:  # without a target all is one subgraph, and the library refuses to start
            events += [*self._run(self._behind(None)), Event("alloc", 0, feeds[0], operator="hidden states")]
        return Segment(0, "", 0, tuple(events), (0,), ((1, 0),) if feeds else (), exact=False)

    def _behind(self, target: "Unit | None") -> list["Unit"]:
        """Units that run in a target's subgraph after the target, up to the next one; with None, before the first.

        helpers.py topological_partition. Embeddings belong to the head subgraph, wherever they stand.
        """
        start = 0 if target is None else self.units.index(target) + 1
        between = takewhile(lambda unit: not unit.is_target, self.units[start:])
        return [unit for unit in between if unit.kind not in ("embedding", "head") and unit.onload != "never"]

    def _run(self, units: Sequence["Unit"]) -> Iterator[Event]:
        """Events of the units one after the other. Names inside a target start with a dot, all others are full."""
        ids = count(1)
        for unit in units:
            prefix = "" if unit.is_target else unit.name
            for parameter in self.structures[unit.structure].parameters:
                if not parameter.tied:
                    yield Event("onload", bytes=parameter.bytes, parameter=prefix + parameter.name)
            linears = self._linears(unit)
            if linears:
                yield from self._attention([next(ids) for _ in range(3)], prefix)
            for module in linears:
                yield from self._linear(module, prefix + module.name, next(ids), next(ids))

    def _attention(self, numbers: Sequence[int], prefix: str) -> Iterator[Event]:
        """Eager attention: scores, an fp32 copy, its softmax."""
        scores = self.job.batch_size * self.heads * self.job.seq_len**2
        for number, nbytes in zip(numbers, (scores * self.itemsize, scores * FP32, scores * FP32), strict=True):
            yield Event("alloc", number, nbytes, f"{prefix}.attention", "scores")
        yield from (Event("free", number) for number in numbers)

    def _linear(self, module: "ModuleInfo", name: str, input_id: int, output_id: int) -> Iterator[Event]:
        """Events of one Linear: input and output are alive together, and hooks see them as in a real forward."""
        into, out_of = (self.tokens, module.columns), (self.tokens, module.rows)
        given = CallValue("input", math.prod(into) * self.itemsize, into, input_id)
        result = CallValue("output", math.prod(out_of) * self.itemsize, out_of, output_id)
        before = Call(
            module=name,
            rows=self.tokens,
            columns=module.columns,
            itemsize=self.itemsize,
            contiguous=True,
            dims=into,
            arguments=(given,),
        )
        after = replace(before, output=out_of, output_itemsize=self.itemsize, outputs=(result,))
        yield Event("alloc", input_id, given.bytes, name, "input")
        yield Event("enter", call=before)
        yield Event("alloc", output_id, result.bytes, name, "output")
        yield Event("exit", call=after)
        yield Event("free", input_id)
        yield Event("free", output_id)
