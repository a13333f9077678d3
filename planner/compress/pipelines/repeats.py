"""Repeated subgraphs: the steps of one that was walked are copied under the names of another.

Two subgraphs cost the same if they have the same structure, targets and borders, find the same leftovers and the
same devices (`Repeats.key`). Then the first one's steps are copied, and the books are brought to what
the first one left behind, under the names of the second. A subgraph that leaves anything behind beside the pipeline's
names and the cache is no template: what a modifier carries from subgraph to subgraph is walked.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from planner.compress.cache import ActivationCache
from planner.compress.context import Context, Frame
from planner.compress.devices import Layout
from planner.compress.ledger import Owner, Peak
from planner.compress.pipelines.passes import NAMES
from planner.compress.program import Program, Run, StepMemory, Subgraph
from planner.timeline import Handle

Leftovers = tuple[tuple[tuple[str, Owner, int], ...], ...]
"""(kind, owner, bytes) of what each of NAMES holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A subgraph that was walked: its steps, and what it left behind."""

    subgraph: Subgraph
    steps: tuple[StepMemory, ...]
    leftovers: Leftovers
    layout: Layout
    """How the devices held what was left behind."""


@dataclass(slots=True)
class Repeats:
    """The templates of one pipeline run."""

    context: Context
    program: Program
    runs: tuple[Run, ...]
    cache: ActivationCache
    names: Frame
    templates: dict[object, Template] = field(default_factory=dict)

    def key(self, subgraph: Subgraph) -> object:
        """Equal for subgraphs that cost the same where they stand."""
        trace, ledger = self.program.trace, self.context.ledger
        segments = [trace.segments[i] for i in subgraph.segments]
        borders = (subgraph.reads, subgraph.writes, subgraph.consumed)
        return (
            tuple((s.structure, tuple(run.signature(s.target) for run in self.runs)) for s in segments),
            tuple(tuple(trace.crossings[n].bytes for n in numbers) for numbers in borders),
            tuple(tuple(size for _, _, size in group) for group in self._leftovers()),
            tuple(sorted(ledger.live_by_kind("cpu").items())),
            tuple(sorted(ledger.live_by_kind("gpu").items())),
            ledger.layout(self._parts()),
        )

    def surroundings(self) -> Hashable:
        """All that is held beside the pipeline's names and the activation cache."""
        names = (handle for name in NAMES for handle in self.names.held(name))
        return self.context.ledger.others(self.cache.held.union(names))

    def keep(self, key: object, subgraph: Subgraph, steps: list[StepMemory], before: Hashable) -> None:
        """Remember a subgraph that was walked just now, if it left its `surroundings` as they were `before`."""
        if self.surroundings() != before:
            return
        self.templates[key] = Template(
            subgraph=subgraph,
            steps=tuple(steps),
            leftovers=self._leftovers(),
            layout=self.context.ledger.layout(self._parts()),
        )

    def repeat(self, template: Template, subgraph: Subgraph) -> list[StepMemory]:
        """The template's steps under this subgraph's names. Leaves the books as this subgraph would leave them."""
        renames = self._renames(template.subgraph, subgraph)
        ledger = self.context.ledger
        with ledger.unplaced():
            for name, group in zip(NAMES, template.leftovers, strict=True):
                self._leave(name, [(kind, owner.renamed(renames), size) for kind, owner, size in group])
            self.cache.rename(subgraph.consumed, subgraph.writes)
        ledger.restore(template.layout, self._parts())
        ledger.close_step()
        return [_renamed(step, subgraph, renames) for step in template.steps]

    def _leave(self, name: str, group: list[tuple[str, Owner, int]]) -> None:
        """Let the name hold these tensors; where it holds equal ones already, only their owners change."""
        ledger, held = self.context.ledger, self.names.held(name)
        if [(ledger.about(h).kind, ledger.size(h)) for h in held] == [(kind, size) for kind, _, size in group]:
            for handle, (_, owner, _) in zip(held, group, strict=True):
                ledger.relabel(handle, owner)
            return
        self.names.delete(name)
        self.names.bind(name, *(self.context.take(size, kind, owner) for kind, owner, size in group))

    def _parts(self) -> list[Handle]:
        """The holdings of the names and of the cache, in the same order for every subgraph."""
        return [*(handle for name in NAMES for handle in self.names.held(name)), *self.cache.in_order()]

    def _leftovers(self) -> Leftovers:
        ledger = self.context.ledger
        return tuple(
            tuple((ledger.about(h).kind, ledger.about(h).owner, ledger.size(h)) for h in self.names.held(name))
            for name in NAMES
        )

    def _renames(self, template: Subgraph, subgraph: Subgraph) -> dict[str, str]:
        """Old module names -> new ones: the subgraph's own targets, and those of the one before it."""
        segments = self.program.trace.segments
        pairs = list(zip(template.segments, subgraph.segments, strict=True))
        pairs += [(a - len(pairs), b - len(pairs)) for a, b in pairs if a - len(pairs) > 0]
        return {segments[a].target: segments[b].target for a, b in pairs if segments[a].target}


def _renamed(step: StepMemory, subgraph: Subgraph, renames: dict[str, str]) -> StepMemory:
    def peak(old: Peak) -> Peak:
        return replace(old, largest=tuple(replace(h, owner=h.owner.renamed(renames)) for h in old.largest))

    return replace(step, subgraph=subgraph.number, unit=subgraph.unit, gpu=peak(step.gpu), cpu=peak(step.cpu))
