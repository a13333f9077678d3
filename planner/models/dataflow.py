"""The forward as a graph of operations, cut where LLM Compressor cuts it inside a layer.

With sequential targets below the decoder layer, borders run through a layer's own forward, and the
order of operations is that of a breadth-first walk of the traced graph, not that of the program
(pipelines/sequential/helpers.py topological_partition). An operation that
waits for a long chain is computed late, and the activation cache keeps its inputs until then: with experts as
targets, every expert's output.

A node is one call of a module that holds no target, or one torch function call in the forward of a
module that does. An in-place call without assignment (`x.index_add_(...)`) gives a node that nothing
depends on, as in torch.fx; an augmented assignment (`x += y`) gives one that later uses depend on.
Reading a tensor's shape is a node too, and each side that is taken out of it another: what is made with one of these
numbers waits for them, so the experts of a layer may come after what is left to do of the layer before. What the
library's tracer wraps into a function (pieces.py) is one node, whatever runs in it.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from transformers import PretrainedConfig

from planner.errors import JobError
from planner.models.calls import ModuleCalls, patched_forward
from planner.models.failures import pass_on, run_forward, stands_in
from planner.models.inputs import CalibrationBatch
from planner.models.nodes import GraphNode, GraphValue, partition
from planner.models.pieces import Pieces, RunningPiece
from planner.models.recorder import Key, Recorder, storage_key
from planner.models.sides import SHAPE, makers, with_sides
from planner.models.traces import CallValue, Crossing, Event, ModelTrace, Segment
from planner.models.wrapping import ancestors

_AUGMENTED = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "and", "or", "matmul")}


class DataflowTracer:
    """Traces the whole model node by node, then cuts the graph."""

    def __init__(self, model: torch.nn.Module, targets: dict[str, int], batch: CalibrationBatch, experts: int) -> None:
        self.model, self.targets, self.batch = model, targets, batch
        self.recorder = Recorder(experts, listener=self)
        self.calls = ModuleCalls(model, self.recorder)
        above = ancestors(model, targets)
        self._ancestors = {id(m) for m in above}
        self._pieces = Pieces(above)
        self._piece: RunningPiece | None = None
        """The wrapped piece whose node is open, and"""
        self._made: list[weakref.ref[torch.Tensor]] = []
        """what was made in it."""
        self._containers = {id(m) for m in model.modules() if type(m).forward is torch.nn.Module.forward}
        self.nodes: list[GraphNode] = []
        self.values: list[GraphValue] = []
        self._producer: dict[int, int] = {}
        self._value_of: dict[int, int] = {}
        self._configs: set[int] = set()
        """Nodes of wrapped pieces that return the model's config beside tensors."""
        self._alive: list[torch.Tensor] = []
        self._depth = 0
        self._open_node = self._open_piece = GraphNode(-1, "")

    # ------------------------------------------------------------------ run
    def run(self) -> ModelTrace:
        """Run the forward once, node by node, and cut it at the sequential targets."""
        self.recorder.name_parameters(self.model)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for context in self.calls.patches(self._patched_leaves(), self._before, self._after):
                stack.enter_context(context)
            stack.enter_context(_FunctionNodes(self))
            stack.enter_context(self.recorder)
            self.recorder.begin()
            for name, tensor in self.batch.fields.items():
                self._placeholder(name, tensor)
            run_forward(self.model, {**self.batch.fields, "use_cache": False})
            self._close_piece()
        return self.calls.kept(self._cut())

    def _patched_leaves(self) -> Iterator[Any]:
        """Leaf modules note their reads in a patched forward, because module hooks see no keyword arguments."""
        for module in self.model.modules():
            if id(module) in self._ancestors | self._containers:
                for child in module.children():
                    if id(child) not in self._ancestors | self._containers:
                        yield patched_forward(child, self._leaf_forward(child))

    # ------------------------------------------------------------------ what the recorder asks and tells
    def where(self) -> str:
        return self.calls.where()

    def relative(self, name: str) -> str:
        return self.calls.relative(name)

    def on_read(self, key: Key, tensor: torch.Tensor) -> None:
        """Nothing to do: reads are noted node by node, not operator by operator."""

    def on_death(self, key: Key) -> None:
        """Nothing to do: all values stay alive until the trace is finished."""

    # ------------------------------------------------------------------ leaves
    def _leaf_forward(self, module: torch.nn.Module) -> Any:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._depth == 1:
                self._note_reads(self._open_node, (args, kwargs))
            return pass_on(original, args, kwargs)

        return forward

    def _placeholder(self, name: str, tensor: torch.Tensor) -> None:
        node = self._begin(name, False, ())
        with self._own_calls():
            self.recorder.adopt(tensor)
        self._end(node, tensor)

    @contextmanager
    def _own_calls(self) -> Iterator[None]:
        """What the tracer itself asks of tensors is no node."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    # ------------------------------------------------------------------ nodes
    def _before(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if self._depth or id(module) not in self._ancestors:
            if not self._depth:
                name = self.calls.name(module)
                self._open_node = self._node(name, (), target=name in self.targets)
            self._depth += 1
        self.calls.enter(module, args, kwargs, shown=bool(self._depth))

    def _after(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.calls.leave(module, args, kwargs, output, shown=bool(self._depth))
        if id(module) in self._ancestors and not self._depth:
            self.calls.hold(module, args, kwargs, output, in_graph=True)
        if self._depth:
            self._depth -= 1
            if not self._depth:
                self._end(self._open_node, output)

    def function(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One torch function call outside of leaf modules."""
        name = getattr(func, "__name__", "function")
        is_shape = func == SHAPE
        if self._depth or (name == "__get__" and not is_shape):
            return pass_on(func, args, kwargs)
        node = self._node("size" if is_shape else name, (args, kwargs))
        with self._own_calls():
            result = pass_on(func, args, kwargs)
        self._end(node, result, replaces=name in _AUGMENTED)
        return result if self._piece else self._with_sides(node, result)

    def _with_sides(self, node: GraphNode, result: Any) -> Any:
        """A shape whose sides know where they come from; anything else as it is."""
        if not isinstance(result, torch.Size):
            return result
        shape = with_sides(result, first=len(self.nodes))
        self.nodes += [GraphNode(number, "getitem", waits={node.index: None}) for number in makers(shape)]
        return shape

    def _node(self, name: str, reads: Any, *, target: bool = False) -> GraphNode:
        """A node for one call; in a wrapped piece, the piece's."""
        for skipped in self._pieces.passed_over():
            self._pass_over(skipped)
        piece = self._pieces.running()
        if piece is None or piece != self._piece:
            self._close_piece()
            node = self._begin(name, target, reads if piece is None else (reads, piece.passed()))
            self._piece, self._open_piece = piece, node
            return node
        self._open_piece.name = name  # what crosses a border is named after the last call
        self._note_reads(self._open_piece, reads)
        return self._open_piece

    def _pass_over(self, piece: RunningPiece) -> None:
        """A wrapped piece that computes nothing: its results are new nodes, though the tensors are the same."""
        self._close_piece()
        node = self._begin("wrapped", False, piece.passed())
        self.recorder.write_to([])
        for tensor in _tensors(piece.returned()):
            child = GraphNode(len(self.nodes), "getitem", waits={node.index: None})
            self.nodes.append(child)
            with self._own_calls():
                self._add_value(child, tensor)

    def _close_piece(self) -> None:
        """The wrapped function returns: what it made and Python still holds."""
        piece, made, self._piece, self._made = self._piece, self._made, None, []
        if piece is None:
            return
        alive = [tensor for tensor in (reference() for reference in made) if tensor is not None]
        if any(isinstance(each, PretrainedConfig) for each in pytree.tree_leaves(piece.returned())):
            self._configs.add(self._open_piece.index)
        self._end(self._open_piece, alive[-1] if piece.source.is_call and len(alive) == 1 else alive)

    def _begin(self, name: str, target: bool, reads: Any) -> GraphNode:
        node = GraphNode(len(self.nodes), name, target)
        self.nodes.append(node)
        self._note_reads(node, reads)
        self.recorder.write_to(node.events)
        return node

    def _note_reads(self, node: GraphNode, values: Any) -> None:
        for value in _tensors(values):
            number = self._value_of.get(id(value))
            if number is not None and self._producer[number] != node.index:
                node.reads[number] = None
        node.waits.update(dict.fromkeys(makers(values)))

    def _end(self, node: GraphNode, result: Any, *, replaces: bool = False) -> None:
        if self._piece:  # its events go on until it returns
            self._made += [weakref.ref(tensor) for tensor in _tensors(result) if id(tensor) not in self._value_of]
            return
        self.recorder.write_to([])
        if not self.recorder.recording:
            return
        tensors = [t for t in _tensors(result) if id(t) not in self._value_of or replaces]
        with self._own_calls():
            values = [self._add_value(node, tensor) for tensor in tensors]
        if isinstance(result, (tuple, list)):
            self._unpack(values, tensors)

    def _add_value(self, node: GraphNode, tensor: torch.Tensor) -> int:
        self._alive.append(tensor)
        number = len(self.values)
        self.values.append(self._value(tensor))
        self._value_of[id(tensor)] = number
        self._producer[number] = node.index
        node.values.append(number)
        return number

    def _unpack(self, values: list[int], tensors: list[torch.Tensor]) -> None:
        """A tuple is one value of the traced graph: for each element, a node of its own reads the whole tuple."""
        for tensor in tensors:
            node = GraphNode(len(self.nodes), "getitem", reads=dict.fromkeys(values))
            self.nodes.append(node)
            with self._own_calls():
                self._add_value(node, tensor)

    def _value(self, tensor: torch.Tensor) -> GraphValue:
        nbytes = tensor.numel() * tensor.element_size()
        storage = self.recorder.ids.get(storage_key(tensor), -1)
        batched = tensor.dim() > 0 and tensor.shape[0] % self.batch.size == 0
        return GraphValue(storage, nbytes, batched)

    # ------------------------------------------------------------------ the cut
    def _cut(self) -> ModelTrace:
        parts = partition(self.nodes, self._producer)
        home = {node.index: index for index, part in enumerate(parts) for node in part}
        self._check_configs(home)
        last = dict.fromkeys(range(len(self.values)), -1)
        for node in self.nodes:
            for read in node.reads:
                last[read] = max(last[read], home[node.index])
        crossings = {}
        for number in range(len(self.values)):
            crossing = self._crossing(number, home[self._producer[number]], last[number])
            if crossing is not None:
                crossings[number] = crossing
        segments = tuple(self._part(index, part, crossings) for index, part in enumerate(parts))
        size = self.batch.bytes
        return ModelTrace(segments, crossings, size // self.batch.size, size)

    def _check_configs(self, home: Mapping[int, int]) -> None:
        """Raises JobError where a wrapped piece's results are taken out of their tuple behind a border, and the config
        is among them: llmcompressor pipelines/cache.py IntermediatesCache `_offload_value` makes it anew of parts that
        are no values of its fields."""
        for node in self.nodes:
            made = {self._producer[value] for value in node.reads} & self._configs
            if any(home[number] < home[node.index] for number in made):
                raise JobError(
                    "LLM Compressor stops in its activation cache (StrictDataclassFieldValidationError): between two "
                    "sequential targets it keeps what holds the model's config; take other sequential targets"
                )

    def _crossing(self, number: int, producer: int, last: int) -> Crossing | None:
        """This value as a crossing, where a later part reads it or it is a calibration input."""
        value, node = self.values[number], self._producer[number]
        is_input = node < len(self.batch.fields)
        if last <= producer and not is_input:
            return None
        return Crossing(
            id=number,
            name=self.nodes[node].name,
            bytes=value.bytes,
            producer=-1 if is_input else producer,
            last_reader=max(0, last),
            batched=value.batched,
        )

    def _part(self, index: int, part: list[GraphNode], crossings: dict[int, Crossing]) -> Segment:
        target = next((node.name for node in part if node.target), "")
        writes = [
            (v, self.values[v].storage)
            for node in part
            for v in node.values
            if v in crossings and crossings[v].producer == index
        ]
        reads = dict.fromkeys(
            v for node in part for v in node.reads if v in crossings and crossings[v].producer < index
        )
        if index == 0:
            reads.update(dict.fromkeys(v for v, c in crossings.items() if c.producer < 0))
        crossing_storages = {storage for _, storage in writes}
        places = {self.values[v].storage: place for place, v in enumerate(reads)}
        events = tuple(_relative(event, target, places) for event in self._events(part, crossing_storages))
        return Segment(index, target, index, events, tuple(reads), tuple(writes))

    def _events(self, part: list[GraphNode], crossing_storages: set[int]) -> Iterator[Event]:
        """The nodes' events in order; a value goes after the last node that reads it.

        torch/fx/graph.py delete_unused_values: several values go in the order in which that node takes them.
        """
        last_use: dict[int, int] = {}
        for position, node in enumerate(part):
            for value in (*node.reads, *node.values):
                last_use[self.values[value].storage] = position
        alive: dict[int, None] = {}
        for position, node in enumerate(part):
            for event in node.events:
                if event.kind == "alloc":
                    alive[event.id] = None
                elif event.kind == "free":
                    alive.pop(event.id, None)
                yield event
            read = dict.fromkeys(self.values[value].storage for value in (*node.reads, *node.values))
            for storage in [s for s in {**read, **alive} if s in alive]:
                if storage not in crossing_storages and last_use.get(storage, position) <= position:
                    del alive[storage]
                    yield Event("free", storage)


class _FunctionNodes(TorchFunctionMode):
    """Shows every torch function call of Python code to the tracer."""

    def __init__(self, tracer: DataflowTracer) -> None:
        super().__init__()
        self._tracer = tracer

    @stands_in
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._tracer.function(func, args, kwargs or {})


def _tensors(values: Any) -> Iterable[torch.Tensor]:
    return (v for v in pytree.tree_leaves(values) if isinstance(v, torch.Tensor))


def _relative(event: Event, target: str, places: Mapping[int, int]) -> Event:
    """Names under the segment's target start with a dot; `places` of its reads, by the storage that is read."""

    def below(name: str) -> str:
        return name[len(target) :] or "." if target and f"{name}.".startswith(f"{target}.") else name

    def value(value: CallValue) -> CallValue:
        place = places.get(value.storage, -1) if value.storage >= 0 else -1
        return value if place < 0 else replace(value, storage=-1, read=place)

    call = event.call and replace(
        event.call,
        module=below(event.call.module),
        arguments=tuple(map(value, event.call.arguments)),
        outputs=tuple(map(value, event.call.outputs)),
    )
    return replace(event, module=below(event.module), parameter=below(event.parameter), call=call)
