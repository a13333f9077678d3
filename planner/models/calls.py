"""What runs while a model's forward is traced: the stack of module calls, what hooks see of them, the output head.

LLM Compressor's modifiers hook Linears (GPTQ), norms (SmoothQuant) and blocks of several modules (AWQ), a recipe's
transforms any module, activation functions too. So every call of a module is written down.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from planner.models.attention import attention_patches
from planner.models.failures import pass_on, stands_in
from planner.models.recorder import Recorder, storage_key
from planner.models.traces import Call, CallValue, Event, EventKind, ModelTrace

LEAVES = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
"""Modules whose weight a modifier may compress."""

Before = Callable[[torch.nn.Module, Any, Any], None]
After = Callable[[torch.nn.Module, Any, Any, Any], None]


class ModuleCalls:
    """Follows the calls of `model`'s modules, and writes those that a modifier can hook to `recorder`.

    `place` gives a tensor's place among the running segment's reads, -1 for one that has none.
    """

    def __init__(
        self, model: torch.nn.Module, recorder: Recorder, place: Callable[[torch.Tensor], int] = lambda _tensor: -1
    ) -> None:
        self.recorder = recorder
        self.prefix = ""
        """The sequential target that is running; names under it start with a dot."""
        self._place = place
        self._model = model
        self._names: dict[int, str] = {id(m): name for name, m in model.named_modules()}
        self._head = _output_head(model)
        self._head_ran = False
        self._stack: list[str] = []
        self._shown: list[bool] = []
        """Whether the calls of the stack are written down."""
        self._held: dict[str, tuple[Call, ...]] = {}
        self._iterated: set[str] = set()

    def name(self, module: torch.nn.Module) -> str:
        """The module's full name; empty for the model itself and for modules outside of it."""
        return self._names.get(id(module), "")

    def where(self) -> str:
        """Name of the module that is running, as events have it."""
        return self.relative(self._stack[-1]) if self._stack else ""

    def relative(self, name: str) -> str:
        """Names under the segment's target start with a dot: they repeat in equal segments."""
        if self.prefix and (name + ".").startswith(self.prefix + "."):
            return name[len(self.prefix) :] or "."
        return name

    # ------------------------------------------------------------------ what stands in for the model's own
    def patches(self, inner: Iterable[Any], before: Before, after: After) -> Iterator[Any]:
        """Contexts to enter, in order, for the forward; `before` and `after` run around every module's forward.

        The output head is patched before the tracer's own, `inner`: it may be one of their targets or leaves.
        """
        if self._head is not None:
            yield patched_forward(self._head, self._meta_head(self._head))
        yield from inner
        yield around_calls(before, after)
        yield from (
            around_iterations(kind, self._note_iteration) for kind in (torch.nn.ModuleList, torch.nn.Sequential)
        )
        yield from attention_patches(self._model, self._see_states)
        yield HalfSoftmax()

    def _meta_head(self, head: torch.nn.Linear) -> Callable[..., torch.Tensor]:
        """utils/helpers.py disable_lm_head: the logits exist on the meta device alone."""

        def forward(hidden: torch.Tensor) -> torch.Tensor:
            self.recorder.stop()
            self._head_ran = True
            return torch.empty(*hidden.shape[:-1], head.out_features, dtype=hidden.dtype, device="meta")

        return forward

    # ------------------------------------------------------------------ calls of all modules
    def enter(self, module: torch.nn.Module, args: Any, kwargs: Any, *, shown: bool = True) -> None:
        """A module's forward begins. Not `shown`: its hooks do not run here."""
        self._stack.append(self.name(module))
        self._shown.append(shown)
        if shown and self.recorder.recording:
            self.write("enter", module, args, kwargs)

    def leave(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any, *, shown: bool = True) -> None:
        """A module's forward is over."""
        self._stack.pop()
        self._shown.pop()
        if shown and (self.recorder.recording or self._is_head(module)):
            self.write("exit", module, args, kwargs, output)

    def hold(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any, *, in_graph: bool = False) -> None:
        """Keep the call of a module that holds sequential targets: the traced graph does not have it as one."""
        name = self.name(module)
        call = replace(self._call(name, module, args, kwargs, output), holds_targets=True, in_graph=in_graph)
        self._held[name] = (*self._held.get(name, ()), call)

    def kept(self, trace: ModelTrace) -> ModelTrace:
        """The trace with what was seen of modules that are no events in it."""
        return replace(trace, held=self._held, iterated=frozenset(self._iterated))

    def _note_iteration(self, modules: torch.nn.Module) -> None:
        if id(modules) in self._names:
            self._iterated.add(self.name(modules))

    def write(self, kind: EventKind, module: torch.nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        """Write the event of this call, if it is one that a modifier can hook."""
        name = self.name(module)
        hookable = bool(args) or not isinstance(module, LEAVES)
        if name and hookable:
            self.recorder.append(Event(kind, call=self._call(name, module, args, kwargs, output)))

    def _see_states(self, module: torch.nn.Module, states: str, tensor: torch.Tensor) -> None:
        """The running module hands these states to its attention function; its cache has hooks where it is called."""
        if not (self._shown and self._shown[-1] and self.recorder.recording and self._stack[-1] == self.name(module)):
            return
        batch, heads, tokens, width = tensor.shape
        call = Call(
            module=self.relative(f"{self._stack[-1]}.{states}"),
            rows=batch * tokens,
            columns=heads * width,
            itemsize=tensor.element_size(),
            contiguous=tensor.transpose(1, 2).is_contiguous(),
            dims=tuple(tensor.shape),
            arguments=tuple(self._values([(states, tensor)])),
        )
        self.recorder.append(Event("enter", call=call))

    def _is_head(self, module: torch.nn.Module) -> bool:
        return self._head_ran and module is self._head

    def _call(self, name: str, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Call:
        arguments, outputs = list(_arguments(module, args, kwargs)), list(_tensors("output", output))
        given, result = (_shape(tensors[0][1]) if tensors else _NOTHING for tensors in (arguments, outputs))
        columns = given.dims[-1] if given.dims else 1
        return Call(
            module=self.relative(name),
            rows=math.prod(given.dims) // max(1, columns),
            columns=columns,
            itemsize=given.itemsize,
            contiguous=given.contiguous,
            dims=given.dims,
            output=result.dims,
            output_itemsize=result.itemsize,
            arguments=tuple(self._values(arguments)),
            outputs=tuple(self._values(outputs)),
            leads=bool(args) and isinstance(args[0], torch.Tensor),
            **beside(module, args),
        )

    def _values(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[CallValue]:
        """The tensors that take memory of their own: no weights, no numbers."""
        for name, tensor in tensors:
            if self.recorder.is_parameter(tensor) or (tensor.is_cpu and not tensor.dim()):
                continue
            storage = self.recorder.ids.get(storage_key(tensor), -1)
            yield CallValue(
                name=name,
                bytes=tensor.numel() * tensor.element_size(),
                dims=tuple(tensor.shape),
                storage=storage,
                read=-1 if storage >= 0 else self._place(tensor),
            )


class _Shape(NamedTuple):
    dims: tuple[int, ...]
    itemsize: int
    contiguous: bool


_NOTHING = _Shape((), 0, True)


def _shape(tensor: torch.Tensor) -> _Shape:
    return _Shape(tuple(tensor.shape), tensor.element_size(), tensor.is_contiguous())


def _arguments(module: torch.nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that a module is passed, under the names that its forward gives them."""
    names = _positional(type(module).forward)
    for position, value in enumerate(args):
        yield from _tensors(names[position] if position < len(names) else f"args.{position - len(names)}", value)
    for name, value in kwargs.items():
        yield from _tensors(name, value)


def beside(module: torch.nn.Module, args: Any) -> dict[str, Any]:
    """What is passed by position behind the first argument, as `Call` has it."""
    if len(args) < 2:
        return {}
    forward = type(module).forward
    names, parameters = _positional(forward), inspect.signature(forward).parameters
    given = [(names[n] if n < len(names) else f"args.{n - len(names)}", args[n]) for n in range(1, len(args))]
    defaults = [(name, parameters[name].default if name in parameters else None) for name, _ in given]
    others = [pair for pair, (_, value) in zip(defaults, given, strict=True) if value is not pair[1]]
    must_have = any(default is inspect.Parameter.empty for _, default in others)
    return {"others": tuple(name for name, _ in others), "must_have": must_have}


@cache
def _positional(forward: Any) -> tuple[str, ...]:
    """Names of the parameters, without self, that take what is passed by position."""
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a value, as deep as tuples, lists and dictionaries hold them."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, (tuple, list)):
        for place, part in enumerate(value):
            yield from _tensors(f"{name}.{place}", part)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(f"{name}.{key}", part)


class HalfSoftmax(TorchFunctionMode):
    """CUDA's softmax of float16 into float32 reads the half directly, without a float32 copy.

    aten/src/ATen/native/SoftMax.cpp softmax(): half_to_float is taken for CUDA float16 inputs alone.
    """

    @stands_in
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            getattr(func, "__name__", "") == "softmax"
            and kwargs.get("dtype") == torch.float32
            and args[0].dtype == torch.float16
        ):
            dim = kwargs["dim"] if "dim" in kwargs else args[1]
            return torch._softmax(args[0], dim, True)
        return pass_on(func, args, kwargs)


@contextmanager
def patched_forward(module: torch.nn.Module, forward: Any) -> Iterator[None]:
    """Inside the block the module runs `forward`; an earlier patch is restored afterwards."""
    before = module.__dict__.get("forward")
    module.forward = stands_in(forward)
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextmanager
def around_calls(before: Before, after: After) -> Iterator[None]:
    """Inside the block, these run around every module's forward; torch's own global hooks see no keyword arguments."""
    original = torch.nn.Module.__call__

    @stands_in
    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        before(module, args, kwargs)
        output = pass_on(original, (module, *args), kwargs)
        after(module, args, kwargs, output)
        return output

    torch.nn.Module.__call__ = call  # type: ignore[method-assign]  # as torch/fx/_symbolic_trace.py does
    try:
        yield
    finally:
        torch.nn.Module.__call__ = original  # type: ignore[method-assign]  # what was there before


@contextmanager
def around_iterations(kind: Any, note: Callable[[torch.nn.Module], None]) -> Iterator[None]:
    """Inside the block, `note` is told of each list or sequence of modules that is gone through."""
    original = kind.__iter__

    def iterate(modules: torch.nn.Module) -> Iterator[torch.nn.Module]:
        note(modules)
        return original(modules)  # type: ignore[no-any-return]  # torch's own

    kind.__iter__ = iterate
    try:
        yield
    finally:
        kind.__iter__ = original


def _output_head(model: torch.nn.Module) -> torch.nn.Linear | None:
    getter: Any = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    return head if isinstance(head, torch.nn.Linear) else None
