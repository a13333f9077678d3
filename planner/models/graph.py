"""The model as a graph of onload units: what LLM Compressor brings to the GPU, in order.

Plain records; `to_networkx` gives the same as a networkx DiGraph, whose edges carry the tensors
that cross from one unit to another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from planner.job import Job
from planner.models.kinds import UnitKind
from planner.models.traces import ModelTrace
from planner.models.tuned import OnlineRotation, TunedBlock, TuningRequest
from planner.notes import Note
from planner.recipe.specs import ModelTraits, ModuleRef

Tuner = Callable[[TuningRequest], TunedBlock]
"""Raises UnsupportedError where the layer does not run without data."""

Retracer = Callable[[Sequence[OnlineRotation]], ModelTrace]
"""Raises UnsupportedError where the forward does not run with them."""

Onload = Literal["own-subgraph", "head", "last", "another", "setup", "never"]
"""The subgraph with which a unit first goes to the GPU. `another`: with a subgraph of another unit, between head and
last; `setup`: only before the first subgraph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One weight of a unit."""

    name: str
    """Relative to the unit, with a leading dot."""
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    tied: bool = False
    """True where another unit owns the storage: it is not counted here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInfo:
    """One module of a unit, as recipes see it."""

    name: str
    """Relative to the unit, with a leading dot; empty for the unit itself."""
    classes: tuple[str, ...]
    """Class names of its MRO, own class first."""
    rows: int = 0
    columns: int = 0
    itemsize: int = 0
    """Shape of its weight flattened to (rows, columns), and bytes of an element; 0 without weight."""
    takes_cache: bool = False
    """Its forward takes past keys and values."""
    takes_any: bool = False
    """Its forward takes arguments of any name."""
    is_bare: bool = False
    """No weight and no buffer is in it."""
    has_weights: bool = False
    """Weights of its own, not of a module in it alone."""

    def ref_in(self, unit: str) -> ModuleRef:
        """The module in the unit of this name, as recipes see it."""
        what = self.rows, self.columns, self.itemsize, self.takes_cache, self.takes_any, self.is_bare, self.has_weights
        return ModuleRef(unit + self.name, self.classes, *what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What equal units share."""

    class_name: str
    parameters: tuple[Parameter, ...]
    modules: tuple[ModuleInfo, ...]

    @property
    def count(self) -> int:
        """Number of weights, those owned elsewhere left out."""
        return sum(_numel(p.shape) for p in self.parameters if not p.tied)

    @property
    def bytes(self) -> int:
        return sum(p.bytes for p in self.parameters if not p.tied)

    @property
    def linears(self) -> int:
        return sum("Linear" in m.classes for m in self.modules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A part of the model that is onloaded together."""

    name: str
    kind: UnitKind
    structure: int
    """Index into ModelGraph.structures: units with equal numbers are identical."""
    class_name: str
    parameters: int
    bytes: int
    linears: int
    onload: Onload
    is_target: bool = False
    """The unit is a sequential target: a subgraph begins with it if it runs in the traced graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Tensors that one unit makes and another reads, for one batch."""

    source: str
    target: str
    tensors: tuple[tuple[str, int], ...]
    """(name, bytes in the activation cache)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraph:
    """A model, its units and how calibration data flows through them."""

    name: str
    architecture: str
    parameters: int
    bytes: int
    buffer_bytes: int
    not_loaded_parameters: int
    checkpoint_parameters: int
    """Parameters in the checkpoint; the loaded ones where no more is known."""
    layer_parameters: int
    """Parameters of the largest text decoder layer."""
    units: tuple[Unit, ...]
    structures: tuple[Structure, ...]
    edges: tuple[Edge, ...]
    trace: ModelTrace
    notes: tuple[Note, ...]
    sequential_targets: tuple[str, ...]
    tied_embeddings: bool
    embedding: str
    """Name of the input embedding; empty if there is none."""
    head: str
    """Name of the output head where it is a Linear; empty if there is none."""
    fused_expert_bytes: int
    """Fused experts that `oneshot` would convert to Linears."""
    itemsize: int
    layout: tuple[ModuleRef | int, ...]
    """Model order: indices into `units`, and the modules that only contain units."""
    job: Job
    """The job that it was loaded for. Of this job, only dtype, layers, targets, batch and the weights' place decide the
    graph."""
    fused_linears: tuple[tuple[tuple[int, int], ...], ...] = ()
    """For each module of fused experts, the tensors that it becomes: (bytes, number of them in a row)."""
    on_disk: frozenset[str] = frozenset()
    """Modules whose weights stay on the disk, with all that is in them; the empty name is the whole model."""
    names_experts: bool = False
    """A field of the config is named for experts (modifiers/utils/pytorch_helpers.py `is_moe_model`)."""
    stops: tuple[Note, ...] = ()
    """Where a job stops that traces it (planner/models/tracing_stops.py)."""
    facts: ModelTraits = field(default_factory=ModelTraits)
    tune: Tuner | None = field(default=None, compare=False, repr=False)
    """Trains one of its layers, for a recipe that does (planner/models/tuning.py): asks torch. None where the graph
    was not loaded from a model."""

    retrace: Retracer | None = field(default=None, compare=False, repr=False)
    """Traces it with transforms on modules that hold sequential targets (planner/models/retraced.py): asks torch."""
    receivers: Callable[[str], frozenset[str]] | None = field(default=None, compare=False, repr=False)
    """The modules that a forward hands one more keyword argument of this name to (planner/models/keywords.py): asks
    torch, and raises UnsupportedError where the forward does not take it."""

    _refs: list[ModuleRef] = field(default_factory=list, init=False, compare=False, repr=False)
    """What `module_refs` returns, once it was asked for."""

    def module_refs(self) -> Sequence[ModuleRef]:
        """Every module by its full name, in model order: what targets and ignores are matched against."""
        if not self._refs:
            self._refs.extend(self._listed())
        return self._refs

    def _listed(self) -> list[ModuleRef]:
        refs: list[ModuleRef] = []
        for entry in self.layout:
            if isinstance(entry, ModuleRef):
                refs.append(entry)
            else:
                unit = self.units[entry]
                refs += [m.ref_in(unit.name) for m in self.structures[unit.structure].modules]
        return refs

    def weighted(self, unit: Unit) -> list[ModuleInfo]:
        """The unit's modules that have a matrix of weights."""
        return [m for m in self.structures[unit.structure].modules if m.itemsize]

    def largest(self, kind: UnitKind) -> int:
        """Parameters of the largest unit of this kind; 0 without one."""
        return max((unit.parameters for unit in self.units if unit.kind == kind), default=0)

    def total(self, *kinds: UnitKind) -> int:
        """Parameters of all units of these kinds."""
        return sum(unit.parameters for unit in self.units if unit.kind in kinds)

    def to_networkx(self) -> Any:
        """The graph as a networkx.DiGraph: nodes carry the Unit and its Structure, edges the tensors."""
        import networkx

        graph: Any = networkx.DiGraph(name=self.name)
        for unit in self.units:
            graph.add_node(unit.name, unit=unit, structure=self.structures[unit.structure])
        for edge in self.edges:
            graph.add_edge(edge.source, edge.target, tensors=edge.tensors, bytes=sum(size for _, size in edge.tensors))
        return graph


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
