"""Repeated subgraphs: the steps of one that was walked are copied under the names of another.

Two subgraphs cost the same if they have the same structure, targets and borders, find the same leftovers and the
same books (`Repeats.key`). Then the first one's steps are copied, and the books are brought to what
the first one left behind, under the names of the second. Where tensors have places on the GPU, they lie elsewhere in
every layer: what the first one did there is done again for the second, event by event, until a layout returns that was
seen before. A subgraph that leaves anything behind beside the pipeline's
names and the cache is no template: what a modifier carries from subgraph to subgraph is walked.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from planner.compress.cache import ActivationCache
from planner.compress.context import Context, Frame
from planner.compress.devices import STREAMS, Action, CardUse, DiffersError, Script
from planner.compress.holdings import DeviceName, Owner, Peak, Shift
from planner.compress.pipelines.drains import Drains, shifted
from planner.compress.pipelines.passes import NAMES
from planner.compress.program import Program, Run, StepMemory, Subgraph
from planner.compress.tape import Outcome, Outcomes, Repeated, actions_of
from planner.timeline import Handle

Leftovers = tuple[tuple[tuple[str, Owner, int], ...], ...]
"""(kind, owner, bytes) of what each of NAMES holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A subgraph that was walked: its steps, and what it left behind."""

    subgraph: Subgraph
    steps: tuple[StepMemory, ...]
    leftovers: Leftovers
    drains: Drains
    streams: tuple[int, int]
    """How many CUDA streams were made before it, and after it."""
    outcomes: Outcomes
    """What it did on the GPU, if tensors have places there, and how that comes out."""


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
            tuple(
                (s.structure, self.context.is_on_disk(s.target), tuple(run.signature(s.target) for run in self.runs))
                for s in segments
            ),
            tuple(tuple(trace.crossings[n].bytes for n in numbers) for numbers in borders),
            tuple(tuple(size for _, _, size in group) for group in self._leftovers()),
            *(tuple(sorted(self._steady(device).items())) for device in ledger.devices),
        )

    def _steady(self, device: DeviceName) -> dict[str, int]:
        """What is held, by kind, beside holdings that drain from subgraph to subgraph."""
        ledger = self.context.ledger
        held = ledger.live_by_kind(device)
        for handle in self.context.losses.draining:
            about = ledger.about(handle)
            if about.device == device:
                held[about.kind] = held.get(about.kind, 0) - ledger.size(handle)
        return held

    def surroundings(self) -> Hashable:
        """All that is held beside the pipeline's names and the activation cache."""
        names = (handle for name in NAMES for handle in self.names.held(name))
        return self.context.ledger.others(self.cache.held.union(names, self.context.losses.draining))

    def walk(self, key: object, subgraph: Subgraph, do: Callable[[Subgraph], None], steps: list[StepMemory]) -> None:
        """Let `do` walk the subgraph, which adds to `steps`; a template, if it leaves all surroundings alone."""
        ledger, first, before = self.context.ledger, len(steps), self.surroundings()
        begin = ledger.parts("gpu", self._parts())
        start = len(ledger.tape("gpu"))
        drains, streams = Drains.now(self.context), self.context.streams
        do(subgraph)
        if self.surroundings() == before:
            end = ledger.parts("gpu", self._parts())
            self.templates[key] = Template(
                subgraph=subgraph,
                steps=tuple(steps[first:]),
                leftovers=self._leftovers(),
                drains=drains.until_now(self.context),
                streams=(streams, self.context.streams),
                outcomes=Outcomes(Script(actions=tuple(self._actions(start)), begin=begin, end=end)),
            )

    def _actions(self, start: int) -> Iterator[Action]:
        """The tape from there on, which has no repeated script in it."""
        for part in self.context.ledger.tape("gpu")[start:]:
            yield from actions_of(part)

    def repeat(self, template: Template, subgraph: Subgraph) -> list[StepMemory] | None:
        """The template's steps under this subgraph's names. Leaves the books as this subgraph would leave them.

        None, and nothing is changed, where the library asks how much is free, and hears something else here.
        """
        ledger = self.context.ledger
        begin, streams = ledger.parts("gpu", self._parts()), self._more_streams(template)
        try:
            outcome = self._outcome(template, begin, streams)
        except DiffersError:
            return None
        renames = self._renames(template.subgraph, subgraph)
        shifts = template.drains.shifts(self.context)
        with ledger.unplaced():
            for name, group in zip(NAMES, template.leftovers, strict=True):
                self._leave(name, [(kind, owner.renamed(renames), size) for kind, owner, size in group])
            self.cache.rename(subgraph.consumed, subgraph.writes)
            end = ledger.parts("gpu", self._parts())  # with holdings of which this subgraph takes the last
            template.drains.drain(self.context)
            ledger.close_step()
        helds: Sequence[CardUse | None] = [None] * len(template.steps)
        if outcome is not None:
            after, helds = outcome
            ledger.restore("gpu", after, end)
            ledger.note("gpu", Repeated(template.outcomes.script, begin, end, streams))
        before, after = template.streams
        self.context.streams += after - before
        return [
            _renamed(step, subgraph, renames, shifts, held) for step, held in zip(template.steps, helds, strict=True)
        ]

    def _more_streams(self, template: Template) -> int:
        """How many more CUDA streams were made by now than before the template, round about."""
        return (self.context.streams - template.streams[0]) % STREAMS

    def _outcome(self, template: Template, begin: tuple[Handle, ...], streams: int) -> Outcome | None:
        """How a subgraph that begins with these holdings leaves the GPU, if tensors have places there."""
        ledger = self.context.ledger
        if not ledger.places("gpu"):
            return None
        return template.outcomes.of(ledger.device("gpu"), begin, self.context.shortcuts.settled, streams)

    def _leave(self, name: str, group: list[tuple[str, Owner, int]]) -> None:
        """Let the name hold these tensors; where it holds equal ones already, only their owners change."""
        ledger, held = self.context.ledger, self._held(name)
        if [(ledger.about(h).kind, ledger.size(h)) for h in held] == [(kind, size) for kind, _, size in group]:
            for handle, (_, owner, _) in zip(held, group, strict=True):
                ledger.relabel(handle, owner)
            return
        self.names.delete(name)
        self.names.bind(name, *(self.context.take(size, kind, owner) for kind, owner, size in group))

    def _parts(self) -> list[Handle]:
        """The holdings of the names and of the cache, in the same order for every subgraph."""
        return [*(handle for name in NAMES for handle in self._held(name)), *self.cache.in_order()]

    def _leftovers(self) -> Leftovers:
        ledger = self.context.ledger
        return tuple(
            tuple((ledger.about(h).kind, ledger.about(h).owner, ledger.size(h)) for h in self._held(name))
            for name in NAMES
        )

    def _held(self, name: str) -> list[Handle]:
        """What the name holds, by size: a first layer fetches the same tensors as a second one, in another order."""
        return sorted(self.names.held(name), key=self.context.ledger.size)

    def _renames(self, template: Subgraph, subgraph: Subgraph) -> dict[str, str]:
        """Old module names -> new ones: the subgraph's own targets, and those of the one before it."""
        segments = self.program.trace.segments
        pairs = list(zip(template.segments, subgraph.segments, strict=True))
        pairs += [(a - len(pairs), b - len(pairs)) for a, b in pairs if a - len(pairs) > 0]
        return {segments[a].target: segments[b].target for a, b in pairs if segments[a].target}


def _renamed(
    step: StepMemory, subgraph: Subgraph, renames: dict[str, str], shifts: Sequence[Shift], held: CardUse | None
) -> StepMemory:
    def peak(old: Peak, device: DeviceName) -> Peak:
        renamed = replace(old, largest=tuple(replace(h, owner=h.owner.renamed(renames)) for h in old.largest))
        own = tuple(shift for shift in shifts if shift.device == device)
        seen = old.seen and replace(old.seen, renames=renames, shifts=own)
        return shifted(replace(renamed, seen=seen), own)

    gpu = peak(step.gpu, "gpu").where(held)
    second = step.second_gpu and peak(step.second_gpu, "gpu1")
    cpu = peak(step.cpu, "cpu")
    shared = step.shared_cpu + sum(shift.bytes for shift in shifts if shift.device == "cpu")
    return replace(
        step, subgraph=subgraph.number, unit=subgraph.unit, gpu=gpu, cpu=cpu, second_gpu=second, shared_cpu=shared
    )
