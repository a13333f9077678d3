"""A toy model as records: a head, some layers, a tail, all with round numbers of bytes. No torch.

The head embeds tokens and makes what every layer reads: hidden states, a mask, and positions that
are the same for every batch. A layer runs its Linears one after the other; each input dies when its
output is there. The last layer's segment also holds the final norm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from planner.compress.context import Shortcuts
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.modifiers.mixin import QuantizationMixinSpec
from planner.compress.modifiers.rtn import QuantizationSpec
from planner.compress.modifiers.sparsegpt import SparseGPTSpec
from planner.compress.program import Program, Run
from planner.job import Job
from planner.models.graph import Edge, ModelGraph, ModuleInfo, Onload, Parameter, Structure, Unit
from planner.models.traces import Call, CallValue, Crossing, Event, ModelTrace, Segment
from planner.recipe.specs import ModifierSpec, ModuleRef, QuantArgs, Recipe, Scheme
from planner.recipe.targets import LinearModule, UnitTargets

EMBEDDING, NORM, HEAD = "model.embed_tokens", "model.norm", "lm_head"
IDS, MASK, POSITIONS, HIDDEN = 0, 1, 2, 3
"""Crossings: the tokens, what the head makes for all layers, and the first hidden states."""
LAST_HANDLE_OF_A_LAYER = 90

UNFOLDED = Shortcuts(subgraphs=False, modules=False)
"""Every layer is walked, equal or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """One Linear of a layer."""

    name: str
    rows: int
    columns: int

    def bytes(self, itemsize: int) -> int:
        return self.rows * self.columns * itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One kind of layer: its Linears, and temporaries that live while the layer runs."""

    linears: tuple[Linear, ...] = (
        Linear(name=".up", rows=400, columns=200),
        Linear(name=".down", rows=200, columns=400),
    )
    scores: int = 0

    def weight_bytes(self, itemsize: int) -> int:
        return sum(linear.bytes(itemsize) for linear in self.linears)

    def forward_peak(self, tokens: int, itemsize: int, hidden: int) -> int:
        """Highest bytes of what the layer's forward allocates, the hidden states that it returns included."""
        outputs = [linear.rows * tokens * itemsize for linear in self.linears]
        before = [0, *outputs[:-1]]
        return max([self.scores, *(a + b for a, b in zip(before, outputs, strict=True)), outputs[-1] + hidden])


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """A toy model and one batch of its calibration data."""

    kinds: tuple[Layer, ...] = (Layer(),)
    order: tuple[int, ...] = (0, 0, 0)
    """The kind of each layer."""
    tokens: int = 10
    """Tokens in one batch."""
    batch_size: int = 1
    itemsize: int = 2
    hidden: int = 4_000
    mask: int = 1_000
    positions: int = 300
    ids: int = 80
    """Bytes of one sample's tokens."""
    embedding: int = 50_000
    norm: int = 400
    head: int = 50_000
    tied: bool = False
    exact: bool = True
    on_disk: frozenset[str] = frozenset()
    """Modules whose weights stay on the disk."""

    @property
    def layers(self) -> int:
        return len(self.order)

    def layer(self, index: int) -> Layer:
        return self.kinds[self.order[index]]

    @property
    def weight_bytes(self) -> int:
        layers = sum(self.layer(i).weight_bytes(self.itemsize) for i in range(self.layers))
        return self.embedding + layers + self.norm + (0 if self.tied else self.head)

    # ------------------------------------------------------------------ the trace
    @property
    def trace(self) -> ModelTrace:
        segments = (self._head(), *(self._layer(i) for i in range(self.layers)))
        return ModelTrace(segments, self._crossings(), self.ids, self.ids * self.batch_size)

    def _crossings(self) -> dict[int, Crossing]:
        last = self.layers
        sizes = {IDS: ("input_ids", self.ids * self.batch_size, -1, 0), MASK: ("attention_mask", self.mask, 0, last)}
        sizes[POSITIONS] = ("positions", self.positions, 0, last)
        for index in range(self.layers):
            sizes[HIDDEN + index] = ("hidden_states", self.hidden, index, index + 1)
        return {n: Crossing(n, name, size, made, read, n != POSITIONS) for n, (name, size, made, read) in sizes.items()}

    def _head(self) -> Segment:
        events = (
            Event("onload", bytes=self.embedding, parameter=f"{EMBEDDING}.weight"),
            Event("alloc", 0, self.hidden, EMBEDDING, "embedding"),
            Event("alloc", 1, self.mask, "model", "mask"),
            Event("alloc", 2, self.positions, "model", "positions"),
        )
        return Segment(0, "", 0, events, (IDS,), ((MASK, 1), (POSITIONS, 2), (HIDDEN, 0)), self.exact)

    def _layer(self, index: int) -> Segment:
        last = index == self.layers - 1
        events = [*self._events(self.layer(index)), *(self._tail() if last else ())]
        writes = () if last else ((HIDDEN + index + 1, LAST_HANDLE_OF_A_LAYER),)
        structure = 1 + self.order[index] + (len(self.kinds) if last else 0)
        return Segment(
            index + 1,
            f"model.layers.{index}",
            structure,
            tuple(events),
            (HIDDEN + index, MASK, POSITIONS),
            writes,
            self.exact,
        )

    def _events(self, layer: Layer) -> Iterator[Event]:
        if layer.scores:
            yield Event("alloc", 80, layer.scores, ".attention", "scores")
            yield Event("free", 80)
        given = self._value("input", self.hidden, read=0)
        for number, linear in enumerate(layer.linears):
            returned = self._value("output", linear.rows * self.tokens * self.itemsize, storage=number)
            call = linear_call(linear.name, self.tokens, linear.rows, linear.columns, self.itemsize)
            call = replace(call, arguments=(given,))
            yield Event("enter", call=call)
            yield Event("onload", bytes=linear.bytes(self.itemsize), parameter=f"{linear.name}.weight")
            yield Event("alloc", number, returned.bytes, linear.name, "mm")
            yield Event("exit", call=replace(call, outputs=(returned,)))
            given = returned
            if number:
                yield Event("free", number - 1)
        yield Event("alloc", LAST_HANDLE_OF_A_LAYER, self.hidden, ".", "add")
        yield Event("free", len(layer.linears) - 1)

    def _value(self, name: str, nbytes: int, **origin: int) -> CallValue:
        """Some bytes of each sample."""
        return CallValue(name, nbytes, (self.batch_size, nbytes // (self.batch_size * self.itemsize)), **origin)

    def _tail(self) -> Iterator[Event]:
        yield Event("onload", bytes=self.norm, parameter=f"{NORM}.weight")
        yield Event("alloc", 91, self.hidden, NORM, "mul")
        yield Event("exit", call=linear_call(HEAD, self.tokens, 500, 50, self.itemsize))

    # ------------------------------------------------------------------ the graph
    @property
    def graph(self) -> ModelGraph:
        structures = [_plain("Embedding", "Embedding", self.embedding), _plain("Norm", "Norm", self.norm)]
        structures.append(_plain("Linear", "Linear", self.head, tied=self.tied))
        structures += [self._structure(kind) for kind in self.kinds]
        units = [_unit(EMBEDDING, "embedding", 0, structures, "head")]
        units += [
            _unit(f"model.layers.{i}", "decoder", 3 + kind, structures, "own-subgraph")
            for i, kind in enumerate(self.order)
        ]
        units += [_unit(NORM, "norm", 1, structures, "last"), _unit(HEAD, "head", 2, structures, "setup")]
        containers = (ModuleRef("", ("ToyModel",)), ModuleRef("model", ("Decoder",)))
        return ModelGraph(
            name="toy",
            architecture="ToyModel",
            parameters=self.weight_bytes // self.itemsize,
            bytes=self.weight_bytes,
            buffer_bytes=0,
            not_loaded_parameters=0,
            checkpoint_parameters=self.weight_bytes // self.itemsize,
            layer_parameters=max(kind.weight_bytes(self.itemsize) for kind in self.kinds) // self.itemsize,
            units=tuple(units),
            structures=tuple(structures),
            edges=(Edge(source=EMBEDDING, target="model.layers.0", tensors=(("hidden_states", self.hidden),)),),
            trace=self.trace,
            notes=(),
            sequential_targets=("ToyLayer",),
            tied_embeddings=self.tied,
            embedding=EMBEDDING,
            head=HEAD,
            fused_expert_bytes=0,
            itemsize=self.itemsize,
            layout=(*containers, 0, ModuleRef("model.layers", ("ModuleList",)), *range(1, len(units))),
            job=Job(),
            on_disk=self.on_disk,
        )

    def _structure(self, kind: Layer) -> Structure:
        parameters = tuple(
            Parameter(
                name=f"{x.name}.weight", shape=(x.rows, x.columns), dtype="bfloat16", bytes=x.bytes(self.itemsize)
            )
            for x in kind.linears
        )
        linears = tuple(
            ModuleInfo(name=x.name, classes=("Linear",), rows=x.rows, columns=x.columns, itemsize=self.itemsize)
            for x in kind.linears
        )
        return Structure(
            class_name="ToyLayer", parameters=parameters, modules=(ModuleInfo(name="", classes=("ToyLayer",)), *linears)
        )

    # ------------------------------------------------------------------ the program
    def program(self, *specs: ModifierSpec, **changes: Any) -> Program:
        """Every modifier targets every Linear of every layer."""
        values = {
            "trace": self.trace,
            "runs": tuple(self.run(spec) for spec in specs),
            "weight_bytes": self.weight_bytes,
            "fused_expert_bytes": 0,
            "qparam_bytes": 0,
            "qparam_tensors": (),
            "head_bytes": self.embedding if self.tied else self.head,
            "embedding_bytes": self.embedding,
            "tied": self.tied,
        }
        return Program(**(values | changes))

    def run(self, spec: ModifierSpec) -> Run:
        if isinstance(spec, QuantizationMixinSpec) and not spec.groups:
            return Run(spec=spec, units=())
        scheme = spec.groups[0] if isinstance(spec, QuantizationMixinSpec) else None
        units = (
            UnitTargets(
                unit=f"model.layers.{i}",
                signature=kind,
                modules=tuple(self.modules(self.kinds[kind], scheme)),
                loose=False,
            )
            for i, kind in enumerate(self.order)
        )
        return Run(spec=spec, units=tuple(units))

    def modules(self, layer: Layer, scheme: Scheme | None) -> Iterator[LinearModule]:
        for x in layer.linears:
            yield LinearModule(
                name=x.name,
                rows=x.rows,
                columns=x.columns,
                itemsize=self.itemsize,
                scheme=scheme,
            )


# ---------------------------------------------------------------------- single records
def linear_call(name: str, tokens: int, rows: int, columns: int, itemsize: int = 2, *, contiguous: bool = True) -> Call:
    """A call of a (rows, columns) Linear on `tokens` tokens."""
    return Call(name, tokens, columns, itemsize, contiguous, (tokens, columns), (tokens, rows), itemsize)


def linear(
    name: str = "linear", rows: int = 256, columns: int = 256, itemsize: int = 2, **changes: Any
) -> LinearModule:
    return LinearModule(name=name, rows=rows, columns=columns, itemsize=itemsize, **changes)


def weights(**changes: Any) -> QuantArgs:
    """W4A16's arguments: int4, symmetric, one scale per 100 columns."""
    values: dict[str, Any] = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 100}
    return QuantArgs(**(values | {"observer": "memoryless_minmax", "zp_dtype": "int8"} | changes))


def static_input(**changes: Any) -> QuantArgs:
    """Static int8 activations, one scale per tensor."""
    values: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor"}
    return QuantArgs(**(values | {"observer": "minmax", "zp_dtype": "int8"} | changes))


def scheme(args: QuantArgs | None, **changes: Any) -> Scheme:
    return Scheme(targets=("Linear",), weights=args, **changes)


def rtn(args: QuantArgs | None = None, **changes: Any) -> QuantizationSpec:
    """Weight-only round to nearest: needs no data."""
    return QuantizationSpec(
        where="toy.yaml: rtn",
        groups=(scheme(args or weights(), where="toy.yaml: rtn.group"),),
        ignore=(HEAD,),
        **changes,
    )


def onlooker() -> QuantizationSpec:
    """A modifier that asks for data and targets nothing: what is left is the pipeline's own memory."""
    return QuantizationSpec(where="toy.yaml: onlooker", calibrate_anyway=True)


def static_rtn(args: QuantArgs | None = None) -> QuantizationSpec:
    """Static activations too: needs data."""
    group = scheme(
        args or weights(strategy="channel", group_size=None),
        input_activations=static_input(),
        where="toy.yaml: static.group",
    )
    return QuantizationSpec(where="toy.yaml: static", groups=(group,), ignore=(HEAD,))


def gptq(args: QuantArgs | None = None, **changes: Any) -> GPTQSpec:
    group = scheme(args or weights(actorder="static"), where="toy.yaml: gptq.group")
    return GPTQSpec(where="toy.yaml: gptq", groups=(group,), ignore=(HEAD,), **changes)


def sparsegpt(**changes: Any) -> SparseGPTSpec:
    values = {"where": "toy.yaml: sparsegpt", "sparsity": 0.5, "prune_n": 2, "prune_m": 4, "ignore": ("re:.*lm_head",)}
    return SparseGPTSpec(**(values | changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadSpec(ModifierSpec):
    """A modifier of a test, which no recipe asks for by name."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        return cls(where=where)


def recipe(*specs: ModifierSpec) -> Recipe:
    return Recipe(name="toy.yaml", modifiers=specs)


def job(**options: Any) -> Job:
    """A small job: two samples of ten tokens, no progress bars."""
    return Job(**({"samples": 2, "seq_len": 10, "progress_bars": False} | options))


# ---------------------------------------------------------------------- inside
def _plain(class_name: str, kind: str, nbytes: int, *, tied: bool = False) -> Structure:
    """A unit that is one weight of 2-byte elements, 50 columns wide."""
    shape = (nbytes // 100, 50)
    info = ModuleInfo(name="", classes=(kind,), rows=shape[0], columns=50, itemsize=0 if kind == "Norm" else 2)
    parameter = Parameter(name=".weight", shape=shape, dtype="bfloat16", bytes=nbytes, tied=tied)
    return Structure(class_name=class_name, parameters=(parameter,), modules=(info,))


def _unit(name: str, kind: Any, number: int, structures: Sequence[Structure], onload: Onload) -> Unit:
    structure = structures[number]
    return Unit(
        name=name,
        kind=kind,
        structure=number,
        class_name=structure.class_name,
        parameters=structure.count,
        bytes=structure.bytes,
        linears=structure.linears,
        onload=onload,
        is_target=onload == "own-subgraph",
    )
