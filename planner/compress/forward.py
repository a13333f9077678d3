"""Replays a traced forward on the books, running the modifiers' hooks where the library does."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from planner.compress.context import Context
from planner.compress.ledger import Handle, Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.program import Subgraph
from planner.models.traces import CUDA, Call, Event, ModelTrace, Segment
from planner.recipe.targets import LinearModule


@dataclass(frozen=True, slots=True)
class Hooked:
    """One modifier, and the modules that it hooks by full name."""

    modifier: ModifierModel
    modules: Mapping[str, LinearModule]


class SubgraphForward:
    """`Subgraph.forward` of pipelines/sequential/helpers.py."""

    def __init__(self, context: Context, trace: ModelTrace) -> None:
        self.context, self.trace = context, trace

    def run(
        self, subgraph: Subgraph, hooked: tuple[Hooked, ...] = (), share: tuple[int, int] = (1, 1)
    ) -> tuple[Handle, ...]:
        """Run the subgraph's segments; returns the storages that its output dictionary holds.

        What crosses from one segment to the next inside the subgraph dies with its last reader:
        the generated code sets each name to None after its last use (torch.fx codegen).
        `share` is the part of a whole batch that runs: (samples, batch size).
        """
        outputs: list[Handle] = []
        inner: dict[int, tuple[int, Handle]] = {}
        for index in subgraph.segments:
            storages = self._segment(self.trace.segments[index], hooked, share)
            for local, numbers in _by_local(self.trace.segments[index]).items():
                if local not in storages:
                    continue
                last = max(self.trace.crossings[n].last_reader for n in numbers)
                if last > subgraph.segments[-1]:
                    outputs.append(storages.pop(local))
                else:
                    inner[numbers[0]] = (last, storages.pop(local))
            self.context.ledger.free_all(storages.values())
            for number in [n for n, (last, _) in inner.items() if last <= index]:
                self.context.ledger.free(inner.pop(number)[1])
        return tuple(outputs)

    def _segment(self, segment: Segment, hooked: tuple[Hooked, ...], share: tuple[int, int]) -> dict[int, Handle]:
        """Replay one segment; returns the storages that are alive at its end, by local id."""
        context, ledger = self.context, self.context.ledger
        live: dict[int, Handle] = {}
        left_out = "cuda_workspace" if context.cuda else CUDA
        for event in segment.events:
            if event.category == left_out:
                continue
            if event.kind == "alloc":
                owner = _owner(segment.target, event.module, event.operator)
                live[event.id] = ledger.alloc(context.device, _scaled(event.bytes, share), event.category, owner)
            elif event.kind == "free":
                ledger.free(live.pop(event.id))
            elif event.kind == "onload":
                context.onload(full_name(segment.target, event.parameter), event.bytes)
            elif event.kind == "product":
                context.multiply()
            elif hooked:
                _run_hooks(segment, event, hooked, share)
        return live


def _run_hooks(segment: Segment, event: Event, hooked: tuple[Hooked, ...], share: tuple[int, int]) -> None:
    call: Call | None = event.call
    if call is None:
        return
    if share != (1, 1):
        call = replace(call, rows=_scaled(call.rows, share))
    name = full_name(segment.target, call.module)
    for hooks in hooked:
        module = hooks.modules.get(name)
        if module is None:
            continue
        if event.kind == "enter":
            hooks.modifier.before_forward(module, call)
        else:
            hooks.modifier.after_forward(module, call)


def _scaled(amount: int, share: tuple[int, int]) -> int:
    """Bytes or rows in a smaller batch. An amount that the batch size does not divide is the same in every batch."""
    samples, batch_size = share
    return amount * samples // batch_size if amount % batch_size == 0 else amount


@lru_cache(maxsize=2**16)
def _owner(target: str, module: str, operator: str) -> Owner:
    """The module whose forward makes the tensor, in the role of the operator that makes it."""
    return Owner(full_name(target, module), operator) if module else Owner(operator)


def full_name(target: str, name: str) -> str:
    """`.self_attn.q_proj` below the target model.layers.0; a name without the leading dot is full already."""
    if not name.startswith("."):
        return name or "model"
    return (target + name).rstrip(".")


def _by_local(segment: Segment) -> dict[int, list[int]]:
    """Local storage id -> the crossings that are views of it."""
    grouped: dict[int, list[int]] = {}
    for number, local in segment.writes:
        grouped.setdefault(local, []).append(number)
    return grouped
