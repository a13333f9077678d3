"""All that the simulation needs to know of model, recipe and job, as plain data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from planner.compress.holdings import Peak
from planner.compress.schema import Phase
from planner.compress.traffic import NOTHING, Moved
from planner.models.traces import ModelTrace
from planner.models.tuned import TunedBlock
from planner.recipe.specs import ModifierSpec
from planner.recipe.targets import LinearModule, UnitTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One modifier of the recipe, resolved onto the model's modules."""

    spec: ModifierSpec
    units: tuple[UnitTargets, ...]
    """In model order; units without a targeted module are left out."""
    unties_embeddings: bool = False
    """The head or the embedding is a target: calibration unties them (untie_word_embeddings)."""

    def of(self, unit: str) -> UnitTargets | None:
        """The targets in this unit, if any."""
        return next((u for u in self.units if u.unit == unit), None)

    def signature(self, unit: str) -> int:
        """The signature of this unit's targets; -1 for a unit without targets."""
        targets = self.of(unit)
        return -1 if targets is None else targets.signature


@dataclass(frozen=True, kw_only=True)
class Program:
    """One job, ready to simulate."""

    trace: ModelTrace
    runs: tuple[Run, ...]
    weight_bytes: int
    """All parameters and buffers on the CPU, tied ones once."""
    fused_expert_bytes: int
    """Fused experts that `oneshot` converts to Linears; 0 when they are linear already."""
    qparam_bytes: int
    qparam_tensors: tuple[tuple[int, int], ...]
    """Those of them that are not on the disk, tensor by tensor: (bytes, number of such tensors)."""
    head_bytes: int
    """Weight of the output head, onloaded once by disable_lm_head; 0 without a Linear head."""
    embedding_bytes: int
    tied: bool
    head: str = "lm_head.weight"
    """Name of the head's weight, and"""
    embedding: str = "model.embed_tokens.weight"
    """of the embedding's."""
    fused_linears: tuple[tuple[tuple[int, int], ...], ...] = ()
    """For each module of fused experts, the tensors that it becomes: (bytes, number of them in a row)."""
    tuned: Mapping[str, TunedBlock] = field(default_factory=dict)
    """Layers that a modifier trains, by their full names; equal ones share a trace."""
    on_disk: frozenset[str] = frozenset()
    """Modules whose weights stay on the disk, with all that is in them; the empty name is the whole model."""
    disk_bytes: int = 0
    """Weights that stay on the disk."""
    disk_qparam_bytes: int = 0
    """Qparams of these."""
    saves: bool = True
    """False for a job that ends when `oneshot` returns, as tests/cudameter runs it."""
    disk_written_bytes: int = 0
    """Files that the job writes beside the checkpoint before it saves: qparams, and weights that change."""

    second_gpu: int = 0
    """Number of the card that the plan's second GPU is; 0 for none."""
    other_gpus: int = 0
    """The highest number of a card: so many must be there beside the first."""

    @property
    def unruled(self) -> frozenset[str]:
        """Operators of which planner/cuda does not know what they take from a CUDA build's allocator."""
        return self.trace.unruled.union(*(block.unruled for block in self.tuned.values()))

    @cached_property
    def with_schemes(self) -> Mapping[str, tuple[str, LinearModule]]:
        """Every module that ends with a scheme, by its full name: its unit, and the module as named in there.

        apply.py apply_quantization_config: a module that is targeted again has the later scheme.
        """
        return {unit.unit + module.name: (unit.unit, module) for unit, module in self._targets() if module.scheme}

    def _targets(self) -> Iterator[tuple[UnitTargets, LinearModule]]:
        return ((unit, module) for run in self.runs for unit in run.units for module in unit.modules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgraph:
    """Segments that run together: `targets_per_subgraph` sequential targets."""

    number: int
    segments: tuple[int, ...]
    reads: tuple[int, ...]
    """Crossings, each as often as it has names here."""
    writes: tuple[int, ...]
    consumed: tuple[int, ...]
    unit: str
    exact: bool = True
    passed: frozenset[int] = frozenset()
    """The model's inputs that it returns as they are: helpers.py topological_partition puts all into the first one, and
    partition_graph makes outputs of those that a later one reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """What one step held."""

    modifier: str | None
    subgraph: int | None
    of: int | None
    phase: Phase
    unit: str
    exact: bool
    gpu: Peak
    cpu: Peak
    moved: Moved = NOTHING
    second_gpu: Peak | None = None
    """The card on which activations wait, or the fullest of the others that layers are spread over, if any."""
    shared_cpu: int = 0
    """Of the CPU's bytes, weights and qparams: ranks of a torchrun job have these once for all."""


@dataclass(slots=True)
class Outcome:
    """The simulated job."""

    steps: list[StepMemory] = field(default_factory=list)


def cut(trace: ModelTrace, targets_per_subgraph: int) -> tuple[Subgraph, ...]:
    """Group segments as pipelines/sequential/helpers.py topological_partition does.

    All that runs before the first target is a subgraph of its own; then every
    `targets_per_subgraph` targets begin a new one. What a subgraph reads from earlier ones is in
    the activation cache; it is consumed by the last subgraph that reads it (trace_consumed_names).
    """
    count = len(trace.segments)
    groups = [(0,)] + [
        tuple(range(i, min(i + targets_per_subgraph, count))) for i in range(1, count, targets_per_subgraph)
    ]
    reads = [_reads(trace, group) for group in groups]
    read_later: set[int] = set()
    consumed: list[tuple[int, ...]] = []
    for names in reversed(reads):
        consumed.insert(0, tuple(n for n in names if n not in read_later))
        read_later.update(names)
    return tuple(
        Subgraph(
            number=index + 1,
            segments=group,
            reads=_names(trace, group),
            writes=_writes(trace, group),
            consumed=consumed[index],
            unit=_unit(trace, group),
            exact=all(trace.segments[i].exact for i in group),
            passed=frozenset(reads[index]) - frozenset(consumed[index]) if index == 0 else frozenset(),
        )
        for index, group in enumerate(groups)
    )


def _reads(trace: ModelTrace, group: tuple[int, ...]) -> tuple[int, ...]:
    """Crossings read inside the group and made before it."""
    names = dict.fromkeys(n for i in group for n in trace.segments[i].reads)
    return tuple(n for n in names if trace.crossings[n].producer < group[0])


def _names(trace: ModelTrace, group: tuple[int, ...]) -> tuple[int, ...]:
    """The same, once for each name: helpers.py partition_graph makes an input of every node that is read."""
    shared = {n for i in group for n in trace.segments[i].reads if n not in trace.segments[i].items}
    items = [n for i in group for n in trace.segments[i].items]
    return tuple(n for n in _reads(trace, group) for _ in range((n in shared) + items.count(n)))


def _writes(trace: ModelTrace, group: tuple[int, ...]) -> tuple[int, ...]:
    """Crossings made inside the group and read after it, in the order in which they are made: partition_graph's
    output dictionary has them so."""
    names = (n for i in group for n, _ in sorted(trace.segments[i].writes, key=lambda write: write[1]))
    return tuple(n for n in names if trace.crossings[n].last_reader > group[-1])


def _unit(trace: ModelTrace, group: tuple[int, ...]) -> str:
    targets = [trace.segments[i].target for i in group if trace.segments[i].target]
    if not targets:
        return "head"
    shown = ", ".join(targets[:4])
    return shown + (f" and {len(targets) - 4} more" if len(targets) > 4 else "")
