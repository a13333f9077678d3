"""Replays a traced forward on the books, running the modifiers' hooks where the library does."""

from collections.abc import Mapping
from dataclasses import replace

from planner.compress.context import Context
from planner.compress.ledger import Handle
from planner.compress.modifiers.base import ModifierModel
from planner.compress.program import Subgraph
from planner.models.traces import Call, Event, ModelTrace, Segment
from planner.recipe.targets import LinearModule


class Forward:
    """`Subgraph.forward` of pipelines/sequential/helpers.py."""

    def __init__(self, context: Context, trace: ModelTrace) -> None:
        self.context, self.trace = context, trace
        self.share = (1, 1)
        """Part of a whole batch that runs now: (samples, batch size)."""
        self.targets: list[tuple[ModifierModel, Mapping[str, LinearModule]]] = []
        """Each modifier with its targeted modules by full name."""

    def run(self, subgraph: Subgraph, *, hooks: bool) -> list[Handle]:
        """Run the subgraph's segments; returns the storages that its output dictionary holds.

        What crosses from one segment to the next inside the subgraph dies with its last reader:
        the generated code sets each name to None after its last use (torch.fx codegen).
        """
        kept: list[Handle] = []
        inside: dict[int, tuple[int, Handle]] = {}
        for index in subgraph.segments:
            made = self._segment(self.trace.segments[index], hooks)
            for local, numbers in _by_local(self.trace.segments[index]).items():
                if local not in made:
                    continue
                last = max(self.trace.crossings[n].last_reader for n in numbers)
                if last > subgraph.segments[-1]:
                    kept.append(made.pop(local))
                else:
                    inside[numbers[0]] = (last, made.pop(local))
            self.context.ledger.free_all(made.values())
            for number in [n for n, (last, _) in inside.items() if last <= index]:
                self.context.ledger.free(inside.pop(number)[1])
        return kept

    def _segment(self, segment: Segment, hooks: bool) -> dict[int, Handle]:
        context, ledger = self.context, self.context.ledger
        live: dict[int, Handle] = {}
        for event in segment.events:
            if event.kind == "alloc":
                live[event.id] = ledger.alloc(
                    context.device, self._scaled(event.bytes), event.category, full_name(segment.target, event.name)
                )
            elif event.kind == "free":
                ledger.free(live.pop(event.id))
            elif event.kind == "onload":
                context.onload(full_name(segment.target, event.name), event.bytes)
            elif hooks:
                self._hooks(segment, event)
        return live

    def _scaled(self, amount: int) -> int:
        """Bytes or rows in a smaller batch; what does not divide does not depend on the batch."""
        part, whole = self.share
        return amount * part // whole if amount % whole == 0 else amount

    def _hooks(self, segment: Segment, event: Event) -> None:
        call: Call | None = event.call
        if call is None:
            return
        if self.share != (1, 1):
            call = replace(call, rows=self._scaled(call.rows))
        name = full_name(segment.target, call.module)
        for modifier, modules in self.targets:
            module = modules.get(name)
            if module is None:
                continue
            if event.kind == "enter":
                modifier.before_forward(module, call)
            else:
                modifier.after_forward(module, call)


def full_name(target: str, name: str) -> str:
    """`.self_attn.q_proj` under model.layers.0, or a name that is full already."""
    if not name.startswith("."):
        return name or "model"
    return (target + name).replace(". ", " ").rstrip(".")


def _by_local(segment: Segment) -> dict[int, list[int]]:
    """Local storage id -> the crossings that are views of it."""
    grouped: dict[int, list[int]] = {}
    for number, local in segment.writes:
        grouped.setdefault(local, []).append(number)
    return grouped
