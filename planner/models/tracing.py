"""One calibration forward of the whole model on tensors without data, cut at the sequential targets.

Each distinct target (same structure, same inputs) runs once; where it comes again, only its
outputs are made. What LLM Compressor runs between targets (embeddings, masks, rotary embedding,
vision tower) runs as it is. See recorder.py for how a forward runs without data.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from planner.models.inputs import CalibrationBatch
from planner.models.recorder import Key, Recorder, storage_key
from planner.models.traces import Call, Crossing, Event, ModelTrace, Segment
from planner.models.wrapping import ancestors, forwards, names_wrapped_in_loops, wrapped_lines

HOOKED = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


@dataclass(slots=True)
class _Output:
    """How to make a target's output tensor again: geometry, and the local id of its storage."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    elements: int
    """Of the whole storage, of which the output may be a view."""
    dtype: torch.dtype
    known: torch.Tensor | None
    storage: int


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


class ModelTracer:
    """Traces `model`, cutting at `targets` (module name -> structure number), in call order."""

    def __init__(
        self, model: torch.nn.Module, targets: dict[str, int], batch: CalibrationBatch, selected_share: float
    ) -> None:
        self.model, self.targets, self.batch = model, targets, batch
        self.recorder = Recorder(selected_share)
        self.segments: list[_Builder] = [_Builder(0, "")]
        self.crossings: dict[int, Crossing] = {}
        self._owners: dict[Key, tuple[int, int]] = {}
        self._crossing_ids: dict[tuple[Any, ...], int] = {}
        self._templates: dict[tuple[Any, ...], tuple[int, list[Event], Any]] = {}
        self._structures: dict[tuple[Any, ...], int] = {}
        self._names = {id(m): name for name, m in model.named_modules()}
        self._stack: list[str] = []
        self._prefix = ""
        self._inside_target = False
        self._head_ran = False
        traced = list(forwards(ancestors(model, targets)))
        self._wrapped_lines = {forward.code: wrapped_lines(forward) for forward in traced}
        self._loop_names = {forward.code: names_wrapped_in_loops(forward) for forward in traced}
        self.wrapped: dict[str, None] = {}
        """Modules that run inside of a wrapped function: the traced graph does not show them."""

    # ------------------------------------------------------------------ run
    def run(self) -> ModelTrace:
        """Run the forward once and return what happened."""
        recorder = self.recorder
        recorder.where, recorder.on_read, recorder.relative = self._where, self._on_read, self._relative
        recorder.on_death = lambda key: self._owners.pop(key, None)  # the address may come again
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            recorder.name_parameter(tensor, name)
        inputs = dict(self.batch.fields)
        for name, tensor in inputs.items():
            self._add_input(name, tensor)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for context in self._patches():
                stack.enter_context(context)
            stack.enter_context(recorder)
            recorder.begin()
            self.segments[0].events = recorder.events
            result = self.model(**inputs, use_cache=False)
            # what the model returns crosses no border: the last subgraph returns nothing
            self._close()
            del result, inputs
        return self._finish()

    def _patches(self) -> Iterator[Any]:
        head = self._output_head()
        if head is not None:
            yield patched_forward(head, self._meta_head(head))
        for name in self.targets:
            module = self.model.get_submodule(name)
            yield patched_forward(module, self._target_forward(name, module))
        yield self._hooks()
        yield HalfSoftmax()

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        before = torch_module.register_module_forward_pre_hook(self._before)
        after = torch_module.register_module_forward_hook(self._after)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _output_head(self) -> torch.nn.Linear | None:
        getter: Any = getattr(self.model, "get_output_embeddings", None)
        head = getter() if getter is not None else None
        return head if isinstance(head, torch.nn.Linear) else None

    def _meta_head(self, head: torch.nn.Linear) -> Callable[..., torch.Tensor]:
        """utils/helpers.py disable_lm_head: the logits exist on the meta device alone."""

        def forward(hidden: torch.Tensor) -> torch.Tensor:
            self.recorder.stop()
            self._head_ran = True
            return torch.empty(*hidden.shape[:-1], head.out_features, dtype=hidden.dtype, device="meta")

        return forward

    # ------------------------------------------------------------------ hooks of all modules
    def _before(self, module: torch.nn.Module, args: Any) -> None:
        name = self._names.get(id(module), "")
        self._stack.append(name)
        if isinstance(module, HOOKED) and not self._inside_target and self._in_wrapped():
            self.wrapped[name] = None
        if isinstance(module, HOOKED) and args and self.recorder.recording:
            self.recorder.events.append(Event("enter", call=self._call(name, args[0], None)))

    def _after(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        name = self._stack.pop()
        if isinstance(module, HOOKED) and args and (self.recorder.recording or self._is_head(module)):
            self.recorder.events.append(Event("exit", call=self._call(name, args[0], output)))

    def _is_head(self, module: torch.nn.Module) -> bool:
        return self._head_ran and module is self._output_head()

    def _call(self, name: str, tensor: torch.Tensor, output: Any) -> Call:
        columns = tensor.shape[-1] if tensor.dim() else 1
        return Call(
            module=self._relative(name),
            rows=tensor.numel() // max(1, columns),
            columns=columns,
            itemsize=tensor.element_size(),
            contiguous=tensor.is_contiguous(),
            dims=tuple(tensor.shape),
            output=tuple(output.shape) if isinstance(output, torch.Tensor) else (),
            output_itemsize=output.element_size() if isinstance(output, torch.Tensor) else 0,
        )

    def _where(self) -> str:
        return self._relative(self._stack[-1]) if self._stack else ""

    def _relative(self, name: str) -> str:
        """Names under the segment's target start with a dot: they repeat in equal segments."""
        if self._prefix and (name + ".").startswith(self._prefix + "."):
            return name[len(self._prefix) :] or "."
        return name

    # ------------------------------------------------------------------ sequential targets
    def _target_forward(self, name: str, module: torch.nn.Module) -> Callable[..., Any]:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._inside_target:  # a target inside a target runs as part of it
                return original(*args, **kwargs)
            self._next_segment(name)
            self._read_values((args, kwargs))
            self._read_wrapped()
            key = (self.targets[name], signature((args, kwargs)))
            template = self._templates.get(key)
            if template is None:
                return self._record(key, name, original, args, kwargs)
            return self._replay(template)

        return forward

    def _frames(self) -> Iterator[FrameType]:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            yield frame
            frame = frame.f_back

    def _in_wrapped(self) -> bool:
        """The call that is running comes from a wrapped piece of a traced forward."""
        known = self._wrapped_lines
        return any(
            first <= frame.f_lineno <= last for frame in self._frames() for first, last in known.get(frame.f_code, ())
        )

    def _read_wrapped(self) -> None:
        """A wrapped `if` that follows in the loop over layers is given its names at every layer."""
        for frame in self._frames():
            for name in self._loop_names.get(frame.f_code, ()):
                if name in frame.f_locals:
                    self._read_values({name: frame.f_locals[name]})

    def _next_segment(self, name: str) -> None:
        self._close()
        self._prefix = name
        segment = _Builder(len(self.segments), name)
        self.segments.append(segment)
        self.recorder.begin()
        segment.events = self.recorder.events

    def _record(self, key: Any, name: str, original: Any, args: Any, kwargs: Any) -> Any:
        self._inside_target = True
        try:
            result = original(*args, **kwargs)
        finally:
            self._inside_target = False
        segment = self.segments[-1]
        outputs = pytree.tree_map(lambda v: self._describe(v) if isinstance(v, torch.Tensor) else v, result)
        self._templates[key] = (segment.index, list(self.recorder.events), outputs)
        segment.structure = segment.index
        segment.glue_from = len(self.recorder.events)
        return result

    def _describe(self, tensor: torch.Tensor) -> _Output:
        known = tensor if tensor.is_cpu and tensor.dim() else None
        local = self.recorder.ids.get(storage_key(tensor), -1)
        offset, elements = int(tensor.storage_offset()), tensor.untyped_storage().nbytes() // tensor.element_size()
        return _Output(tensor.size(), tensor.stride(), offset, elements, tensor.dtype, known, local)

    def _replay(self, template: tuple[int, list[Event], Any]) -> Any:
        index, events, outputs = template
        segment = self.segments[-1]
        segment.structure = index
        segment.glue_from = len(events)
        self.recorder.events.extend(events)
        self.recorder._next = 1 + max((e.id for e in events), default=-1)
        made: dict[int, torch.UntypedStorage] = {}
        return pytree.tree_map(lambda v: self._make(v, made) if isinstance(v, _Output) else v, outputs)

    def _make(self, output: _Output, made: dict[int, torch.UntypedStorage]) -> torch.Tensor:
        """The same output again, its storage known under the same local id."""
        with self.recorder.paused():
            if output.known is not None:
                tensor = output.known.clone()
            else:
                whole = torch.empty(output.elements, dtype=output.dtype, device="meta")
                tensor = whole.as_strided(output.size, output.stride, output.offset)
        key = storage_key(tensor)
        self.recorder.ids[key] = output.storage
        self._owners[key] = (self.segments[-1].index, output.storage)
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
        """These values are read here: those made in an earlier segment cross a border."""
        leaves = pytree.tree_flatten_with_path(values)[0]
        for path, value in leaves:
            if isinstance(value, torch.Tensor):
                self._read_value(value, _leaf_name(path))

    def _read_value(self, tensor: torch.Tensor, name: str) -> None:
        owner = self._owner(tensor)
        if owner is None or owner[0] == self.segments[-1].index:
            return
        geometry = () if owner[0] < 0 else (int(tensor.storage_offset()), tuple(tensor.shape))
        number = self._crossing_ids.setdefault((*owner, *geometry), len(self.crossings))
        if number == len(self.crossings):
            nbytes = tensor.numel() * tensor.element_size()
            batched = tensor.dim() > 0 and tensor.shape[0] % self._batch_size() == 0
            self.crossings[number] = Crossing(number, name, nbytes, owner[0], owner[0], batched)
            self.segments[owner[0]].writes[number] = owner[1]
        self.segments[-1].reads[number] = None

    def _on_read(self, key: Key, tensor: torch.Tensor) -> None:
        """An operator reads what an earlier segment made: a border between two targets."""
        owner = self._owners.get(key)
        if owner is None or owner[0] == self.segments[-1].index:
            return
        already = {self._owner_of(number) for number in self.segments[-1].reads}
        if owner not in already:
            self._read_value(tensor, "value")

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
            sample_bytes=self.batch.bytes // self._batch_size(),
            batch_bytes=self.batch.bytes,
            wrapped=frozenset(self.wrapped),
        )

    def _batch_size(self) -> int:
        return int(self.batch.fields["input_ids"].shape[0])

    def _segment(self, builder: _Builder) -> Segment:
        made = {e.id for e in builder.events if e.kind == "alloc"}
        events = tuple(e for e in builder.events if e.kind != "free" or e.id in made)
        writes = tuple(sorted(builder.writes.items()))
        key = (builder.structure, tuple(w[1] for w in writes), events[builder.glue_from :] if builder.index else ())
        structure = self._structures.setdefault(key, builder.index)
        return Segment(builder.index, builder.target, structure, events, tuple(builder.reads), writes)


class HalfSoftmax(TorchFunctionMode):
    """CUDA's softmax of float16 into float32 reads the half directly, without a float32 copy.

    aten/src/ATen/native/SoftMax.cpp softmax(): half_to_float is taken for CUDA float16 inputs alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            getattr(func, "__name__", "") == "softmax"
            and kwargs.get("dtype") == torch.float32
            and args[0].dtype == torch.float16
        ):
            dim = kwargs["dim"] if "dim" in kwargs else args[1]
            return torch._softmax(args[0], dim, True)
        return func(*args, **kwargs)


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


@contextmanager
def patched_forward(module: torch.nn.Module, forward: Any) -> Iterator[None]:
    """The module runs `forward` inside the block; a patch that was there before comes back after it."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
