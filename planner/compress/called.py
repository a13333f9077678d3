"""Which calls of a module the traced forward shows, for who hooks more than Linears."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from planner.errors import UnsupportedError
from planner.job import Job
from planner.models.traces import Call, full_name

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

_NUMBER = re.compile(r"\d+")


class Called:
    """The calls of one model's modules. `samples`: whether any passes through them once they are hooked."""

    def __init__(self, graph: "ModelGraph", job: Job, *, samples: bool) -> None:
        self.graph, self.job, self.samples = graph, job, samples

    def __call__(self, name: str) -> Sequence[Call]:
        """Those of this module, empty where no sample passes through it.

        Raises UnsupportedError where the trace does not say.
        """
        if not self.samples:
            return ()
        trace = self.graph.trace
        if not name and self.job.pipeline != "basic":  # torch.fx traces its forward, which is no call of it
            return ()
        # pipelines/sequential/pipeline.py traces before LifecycleCallbacks.calibration_start, where hooks are set
        if self.job.pipeline == "sequential" and name in trace.held:
            return ()
        if calls := self._calls.get(name):
            return calls
        if held := trace.held.get(name):  # the basic pipeline has no graph
            return [replace(call, in_graph=False) for call in held] if self.job.pipeline == "basic" else held
        if not any(segment.exact for segment in trace.segments):
            name = name or "the model itself"
            text = f"the forward of {self.graph.name} is estimated, which shows Linears alone: not {name}"
            raise UnsupportedError(text)
        return ()

    def is_iterated(self, name: str) -> bool:
        """A list or sequence of modules is gone through once it is hooked, by code that torch.fx does not trace before
        (`Called.__call__` of held modules)."""
        if not self.samples or _NUMBER.sub("#", name) not in self._iterated:
            return False
        is_above = any(unit.is_target and unit.name.startswith(f"{name}.") for unit in self.graph.units)
        return not is_above or self.job.pipeline != "sequential"

    @cached_property
    def _iterated(self) -> frozenset[str]:
        return frozenset(_NUMBER.sub("#", name) for name in self.graph.trace.iterated)

    @cached_property
    def _calls(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = defaultdict(list)
        for segment in self.graph.trace.segments:
            for event in segment.events:
                if event.kind == "exit" and event.call is not None:
                    found[full_name(segment.target, event.call.module)].append(event.call)
        return found
