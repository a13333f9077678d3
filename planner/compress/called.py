"""Which calls of a module the traced forward shows, for who hooks more than Linears."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from planner.errors import UnsupportedError
from planner.models.traces import Call, full_name

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph


class Called:
    """The calls of one model's modules. `samples`: whether any passes through them once they are hooked."""

    def __init__(self, graph: "ModelGraph", *, samples: bool) -> None:
        self.graph, self.samples = graph, samples

    def __call__(self, name: str) -> Sequence[Call]:
        """Those of this module, empty where no sample passes through it.

        Raises UnsupportedError where the trace does not say: a module that holds sequential targets is no call of the
        sequential pipeline's graph.
        """
        if not self.samples:
            return ()
        graph = self.graph
        if any(unit.is_target and unit.name.startswith(f"{name}." if name else "") for unit in graph.units):
            what = name or "the model itself"
            raise UnsupportedError(f"planner follows no hook of {what}, which holds sequential targets")
        if calls := self._calls.get(name):
            return calls
        if not any(segment.exact for segment in graph.trace.segments):
            raise UnsupportedError(f"the forward of {graph.name} is estimated, which shows Linears alone: not {name}")
        return ()

    @cached_property
    def _calls(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = defaultdict(list)
        for segment in self.graph.trace.segments:
            for event in segment.events:
                if event.kind == "exit" and event.call is not None:
                    found[full_name(segment.target, event.call.module)].append(event.call)
        return found
