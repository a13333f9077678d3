"""One calibration forward of the whole model on tensors without data, cut at the sequential targets.

Each distinct target (same structure, same inputs) runs once; for its repetitions, only the
outputs are created. What LLM Compressor runs between targets (embeddings, masks, rotary embedding,
vision tower) runs as it is. See recorder.py for how a forward runs without data.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.models.calls import LEAVES, ModuleCalls, patched_forward
from planner.models.failures import pass_on, run_forward
from planner.models.inputs import CalibrationBatch
from planner.models.outputs import OutputShape, made_again, shape_of, shapes_of
from planner.models.recorder import Key, Recorder, storage_key
from planner.models.traces import Crossing, Event, ModelTrace, Segment
from planner.models.wrapping import (
    ancestors,
    forwards,
    items_passed_in_loops,
    names_wrapped_in_loops,
    wrapped_lines,
)


@dataclass(slots=True)
class _Builder:
    """A segment while it is recorded."""

    index: int
    target: str
    structure: int = 0
    events: list[Event] = field(default_factory=list)
    reads: dict[int, None] = field(default_factory=dict)
    writes: dict[int, int] = field(default_factory=dict)
    glue_from: int = 0
    items: set[int] = field(default_factory=set)


class ModelTracer:
    """Traces `model`, cutting at `targets` (module name -> structure number), in call order."""

    def __init__(self, model: torch.nn.Module, targets: dict[str, int], batch: CalibrationBatch, experts: int) -> None:
        self.model, self.targets, self.batch = model, targets, batch
        self.recorder = Recorder(experts, listener=self)
        self.calls = ModuleCalls(model, self.recorder, self._place)
        self.segments: list[_Builder] = [_Builder(0, "")]
        self.crossings: dict[int, Crossing] = {}
        self._owners: dict[Key, tuple[int, int]] = {}
        self._crossing_ids: dict[tuple[Any, ...], int] = {}
        self._templates: dict[tuple[Any, ...], tuple[int, list[Event], Any]] = {}
        self._structures: dict[tuple[Any, ...], int] = {}
        self._inside_target = False
        above = ancestors(model, targets)
        self._ancestors = {id(module) for module in above}
        traced = list(forwards(above))
        self._wrapped_lines = {forward.code: wrapped_lines(forward) for forward in traced}
        self._loop_names = {forward.code: names_wrapped_in_loops(forward) for forward in traced}
        self._items = {forward.code: items_passed_in_loops(forward) for forward in traced}
        self.wrapped: dict[str, None] = {}
        """Modules that run inside of a wrapped function: the traced graph does not show them."""

    # ------------------------------------------------------------------ run
    def run(self) -> ModelTrace:
        """Run the forward once and return what happened."""
        recorder = self.recorder
        recorder.name_parameters(self.model)
        inputs = dict(self.batch.fields)
        for name, tensor in inputs.items():
            self._add_input(name, tensor)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for context in self.calls.patches(self._patched_targets(), self._before, self._after):
                stack.enter_context(context)
            stack.enter_context(recorder)
            recorder.begin()
            self.segments[0].events = recorder.events
            result = run_forward(self.model, {**inputs, "use_cache": False})
            # what the model returns crosses no border: the last subgraph returns nothing
            self._close()
            del result, inputs
        return self.calls.kept(self._finish())

    def _patched_targets(self) -> Iterator[Any]:
        for name in self.targets:
            module = self.model.get_submodule(name)
            yield patched_forward(module, self._target_forward(name, module))

    def _before(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self.calls.enter(module, args, kwargs, shown=self._is_shown(module))
        if isinstance(module, LEAVES) and not self._inside_target and self._in_wrapped():
            self.wrapped[self.calls.name(module)] = None

    def _after(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.calls.leave(module, args, kwargs, output, shown=self._is_shown(module))
        if id(module) in self._ancestors and not self._inside_target:
            self.calls.hold(module, args, kwargs, output)

    def _is_shown(self, module: torch.nn.Module) -> bool:
        """Whether the call of this module is written down by `calls`.

        A module that holds targets is never called as one: the traced graph shows its forward's operations. A
        target's call is written down inside the segment that begins with it.
        """
        begins_segment = not self._inside_target and self.calls.name(module) in self.targets
        return not begins_segment and id(module) not in self._ancestors

    # ------------------------------------------------------------------ what the recorder asks and tells
    def where(self) -> str:
        return self.calls.where()

    def relative(self, name: str) -> str:
        return self.calls.relative(name)

    def on_read(self, key: Key, tensor: torch.Tensor) -> None:
        """Note a read of an earlier segment's storage: it crosses a border between two targets."""
        owner = self._owners.get(key)
        if owner is None or owner[0] == self.segments[-1].index:
            return
        read_owners = {self._owner_of(number) for number in self.segments[-1].reads}
        if owner not in read_owners:
            self._read_value(tensor, "value")

    def on_death(self, key: Key) -> None:
        """Forget the storage: its address may be used again."""
        self._owners.pop(key, None)

    # ------------------------------------------------------------------ sequential targets
    def _target_forward(self, name: str, module: torch.nn.Module) -> Callable[..., Any]:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._inside_target:  # a target inside a target runs as part of it
                return pass_on(original, args, kwargs)
            self._next_segment(name)
            self._read_values((args, kwargs))
            self._read_items(args, kwargs)
            self._read_wrapped()
            key = (self.targets[name], signature((args, kwargs)))
            template = self._templates.get(key)
            if template is None:
                return self._record(key, module, original, args, kwargs)
            return self._replay(template)

        return forward

    def _frames(self) -> Iterator[FrameType]:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            yield frame
            frame = frame.f_back

    def _in_wrapped(self) -> bool:
        """Whether the running call comes from a wrapped piece of a traced forward."""
        wrapped_lines = self._wrapped_lines
        return any(
            first <= frame.f_lineno <= last
            for frame in self._frames()
            for first, last in wrapped_lines.get(frame.f_code, ())
        )

    def _read_items(self, args: Any, kwargs: Any) -> None:
        """What is passed as an item of something is read under a name of its own."""
        items = next(
            (self._items[frame.f_code] for frame in self._frames() if frame.f_code in self._items), frozenset()
        )
        passed = [value for key, value in (*enumerate(args), *kwargs.items()) if key in items]
        for tensor in (leaf for leaf in pytree.tree_leaves(passed) if isinstance(leaf, torch.Tensor)):
            if (number := self._read_value(tensor, "value")) is not None:
                self.segments[-1].items.add(number)

    def _read_wrapped(self) -> None:
        """A wrapped `if` later in the loop over layers reads all its names at every layer."""
        for frame in self._frames():
            for name in self._loop_names.get(frame.f_code, ()):
                if name in frame.f_locals:
                    self._read_values({name: frame.f_locals[name]})

    def _next_segment(self, name: str) -> None:
        self._close()
        self.calls.prefix = name
        segment = _Builder(len(self.segments), name)
        self.segments.append(segment)
        self.recorder.begin()
        segment.events = self.recorder.events

    def _record(self, key: Any, module: torch.nn.Module, original: Any, args: Any, kwargs: Any) -> Any:
        self.calls.write("enter", module, args, kwargs)
        self._inside_target = True
        try:
            result = pass_on(original, args, kwargs)
        finally:
            self._inside_target = False
        self.calls.write("exit", module, args, kwargs, result)
        segment = self.segments[-1]
        ids = self.recorder.ids
        outputs = shapes_of(result, lambda tensor: shape_of(tensor, ids.get(storage_key(tensor), -1)))
        self._templates[key] = (segment.index, list(self.recorder.events), outputs)
        segment.structure = segment.index
        segment.glue_from = len(self.recorder.events)
        return result

    def _replay(self, template: tuple[int, list[Event], Any]) -> Any:
        index, events, outputs = template
        segment = self.segments[-1]
        segment.structure = index
        segment.glue_from = len(events)
        self.recorder.replay(events)
        return made_again(outputs, self._make)

    def _make(self, output: OutputShape) -> torch.Tensor:
        """Create the same output again; its storage gets the same local id."""
        with self.recorder.paused():
            if output.values is not None:
                tensor = output.values.clone()
            else:
                tensor = output.on(torch.empty(output.storage_elements, dtype=output.dtype, device="meta"))
        key = self.recorder.adopt_as(tensor, output.storage_id)
        self._owners[key] = (self.segments[-1].index, output.storage_id)
        return tensor

    # ------------------------------------------------------------------ what crosses the borders
    def _close(self) -> None:
        segment = self.segments[-1]
        for key, local in self.recorder.ids.items():
            self._owners[key] = (segment.index, local)

    def _add_input(self, name: str, tensor: torch.Tensor) -> None:
        key = self.recorder.adopt(tensor)
        number = len(self.crossings)
        self._owners[key] = (-1, number)
        nbytes = tensor.numel() * tensor.element_size()
        self.crossings[number] = Crossing(number, name, nbytes, -1, 0)
        self._crossing_ids[(-1, number)] = number
        self.segments[0].reads[number] = None

    def _read_values(self, values: Any) -> None:
        """Note that the running segment reads these values; those of an earlier segment cross a border."""
        leaves = pytree.tree_flatten_with_path(values)[0]
        for path, value in leaves:
            if isinstance(value, torch.Tensor):
                self._read_value(value, _leaf_name(path))

    def _read_value(self, tensor: torch.Tensor, name: str) -> int | None:
        """Note a read; returns the crossing, None for what crosses no border."""
        owner = self._owner(tensor)
        if owner is None or owner[0] == self.segments[-1].index:
            return None
        geometry = () if owner[0] < 0 else (int(tensor.storage_offset()), tuple(tensor.shape))
        number = self._crossing_ids.setdefault((*owner, *geometry), len(self.crossings))
        if number == len(self.crossings):
            nbytes = tensor.numel() * tensor.element_size()
            batched = tensor.dim() > 0 and tensor.shape[0] % self.batch.size == 0
            self.crossings[number] = Crossing(number, name, nbytes, owner[0], owner[0], batched)
            self.segments[owner[0]].writes[number] = owner[1]
        self.segments[-1].reads[number] = None
        return number

    def _place(self, tensor: torch.Tensor) -> int:
        """The tensor's place among the running segment's reads; -1 where it is none of them."""
        owner = self._owner(tensor)
        if owner is None:
            return -1
        owners = [self._owner_of(number) for number in self.segments[-1].reads]
        return owners.index(owner) if owner in owners else -1

    def _owner(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        key = storage_key(tensor)
        if key in self.recorder.ids:
            return self.segments[-1].index, self.recorder.ids[key]
        return self._owners.get(key)

    def _owner_of(self, number: int) -> tuple[int, int]:
        crossing = self.crossings[number]
        if crossing.producer < 0:
            return -1, number
        return crossing.producer, self.segments[crossing.producer].writes[number]

    # ------------------------------------------------------------------ result
    def _finish(self) -> ModelTrace:
        readers = {n: max((s.index for s in self.segments if n in s.reads), default=-1) for n in self.crossings}
        crossings = {n: replace(c, last_reader=readers[n]) for n, c in self.crossings.items()}
        segments = tuple(self._segment(builder) for builder in self.segments)
        return ModelTrace(
            segments=segments,
            crossings=crossings,
            sample_bytes=self.batch.bytes // self.batch.size,
            batch_bytes=self.batch.bytes,
            unruled=frozenset(self.recorder.unruled),
            wrapped=frozenset(self.wrapped),
        )

    def _segment(self, builder: _Builder) -> Segment:
        allocated = {e.id for e in builder.events if e.kind == "alloc"}
        events = tuple(e for e in builder.events if e.kind != "free" or e.id in allocated)
        writes = tuple(sorted(builder.writes.items()))
        key = (builder.structure, tuple(w[1] for w in writes), events[builder.glue_from :] if builder.index else ())
        structure = self._structures.setdefault(key, builder.index)
        reads, items = tuple(builder.reads), frozenset(builder.items)
        return Segment(builder.index, builder.target, structure, events, reads, writes, items=items)


def signature(values: Any) -> Any:
    """Equal for arguments that a layer cannot tell apart: shapes, types and plain values."""
    leaves, spec = pytree.tree_flatten(values)
    described = tuple(
        (tuple(v.shape), v.stride(), str(v.dtype), v.is_meta)
        if isinstance(v, torch.Tensor)
        else (type(v).__name__, v if isinstance(v, (int, str, bool, float)) else None)
        for v in leaves
    )
    return described, str(spec)


def _leaf_name(path: Sequence[Any]) -> str:
    for entry in reversed(path):
        key = getattr(entry, "key", None)
        if isinstance(key, str):
            return key
    return "hidden_states"
