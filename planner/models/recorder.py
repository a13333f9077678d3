"""Run torch code on tensors without data and write down every storage that is born or dies.

The traced code believes it runs on one device. Behind it, a tensor is a meta tensor (bytes
counted, no values), or, where it is small and its values follow from token ids, masks and grids
alone, an ordinary CPU tensor that keeps them: code that reads a value back (`.tolist()`, masks
as indices) takes the branch it would take for real. Whatever depends on weights is unknown; a
branch on an unknown value gets a fixed answer (see `_answer`).
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from planner.cuda.requests import NOTHING, Requests
from planner.errors import UnsupportedError
from planner.models.failures import first_line, is_called_by_model, pass_on, stands_in
from planner.models.meta_results import result_of, tensors_in
from planner.models.operands import counted_workspaces, cuda_requests, masks
from planner.models.traces import Event

aten = torch.ops.aten

# Storages up to this size may keep their values.
KNOWN_LIMIT = 1 << 20

_FACTORIES = {
    "arange", "full", "zeros", "ones", "empty", "scalar_tensor", "eye", "linspace", "tril_indices", "triu_indices",
    "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like",
}  # fmt: skip
_READ_AS_TRUE = {"all", "eq", "isfinite"}

Key = int


class TraceListener(Protocol):
    """The tracer that runs the recorded forward: it says which module is running, and is told of reads and deaths."""

    def where(self) -> str:
        """Name of the module that is running, as events have it."""

    def relative(self, name: str) -> str:
        """A parameter's full name as events have it."""

    def on_read(self, key: Key, tensor: torch.Tensor) -> None:
        """An operator reads a storage that is older than the last `begin` and no parameter."""

    def on_death(self, key: Key) -> None:
        """A storage was freed; a later storage may get the same key."""


class NoListener:
    """The listener of a recording that is not cut: it gives full names and ignores all else."""

    def where(self) -> str:
        return ""

    def relative(self, name: str) -> str:
        return name

    def on_read(self, key: Key, tensor: torch.Tensor) -> None:
        pass

    def on_death(self, key: Key) -> None:
        pass


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Records the events of everything that runs inside it into `events`.

    `experts` makes the routing of a mixture of experts balanced: an unknown mask of tokens selects one in
    `experts` of them, an unknown mask with an entry for each expert selects them all. Without experts it selects
    nothing. A result for which `is_uncounted` holds leaves no event, as in `paused`.
    """

    def __init__(
        self,
        experts: int = 0,
        listener: TraceListener | None = None,
        is_uncounted: Callable[[Any], bool] = lambda _result: False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.experts = experts
        self.listener: TraceListener = listener or NoListener()
        self.is_uncounted = is_uncounted
        self.events: list[Event] = []
        self.unruled: set[str] = set()
        """Operators that ran and that no rule of planner/cuda knows."""
        self.ids: dict[Key, int] = {}
        self._refs: dict[Key, Any] = {}
        self._parameters: dict[Key, str] = {}
        self._touched: set[Key] = set()
        self._truths: set[Key] = set()
        self._next = 0
        self._paused = 0
        self.card, self.thread = 0, ""
        """Where the operator that runs leaves its results; whose cuBLAS handle multiplies, if not Python's thread's."""

    # ------------------------------------------------------------------ what the tracer says
    def begin(self) -> None:
        """Start a new list of events; ids count from 0 again."""
        self.events, self.ids, self._touched, self._next = [], {}, set(), 0

    def write_to(self, events: list[Event]) -> None:
        """Write the events that follow to this list; ids count on, and touched parameters stay touched."""
        self.events = events

    def append(self, event: Event) -> None:
        """Write a hook's event, which comes from no operator."""
        self.events.append(event)

    def replay(self, events: Sequence[Event]) -> None:
        """Write the events of an equal segment right after `begin`; ids count on from its last one."""
        self.events.extend(events)
        self._next = 1 + max((event.id for event in events), default=-1)

    def name_parameters(self, model: torch.nn.Module) -> None:
        """Touching a parameter or a buffer of `model` is an onload of its name, not an allocation."""
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.name_parameter(tensor, name)

    def name_parameter(self, tensor: torch.Tensor, name: str) -> None:
        """Touching this tensor is an onload of `name`, not an allocation."""
        self._parameters[storage_key(tensor)] = name

    def is_parameter(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is, or is a view of, one that was named."""
        return storage_key(tensor) in self._parameters

    def adopt(self, tensor: torch.Tensor) -> Key:
        """Register the storage of an input, without an allocation."""
        key = storage_key(tensor)
        self._watch(tensor, key)
        return key

    def adopt_as(self, tensor: torch.Tensor, number: int) -> Key:
        """Register this tensor's storage as the one of a replayed allocation."""
        key = storage_key(tensor)
        self.ids[key] = number
        return key

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside leaves no events, and its results get no ids."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    @property
    def recording(self) -> bool:
        """False inside of `paused`, and after `stop`."""
        return not self._paused

    def stop(self) -> None:
        """Stop recording for good: what follows does not run on the device."""
        self._paused += 1

    # ------------------------------------------------------------------ operators
    @stands_in
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        inputs = [t for t in tensors_in(args) if t.dim() or not t.is_cpu] + list(tensors_in(kwargs.values()))
        self._read(inputs)
        if self._paused and kwargs.get("device") == torch.device("meta"):
            # tensors that the tracer itself creates have no values
            return self._register_results(name, pass_on(func, args, kwargs))
        answered, value = self._answer(name, args, kwargs)
        if answered:
            return self._register_results(name, value, self._requests(name, args, kwargs, value))
        selected = tuple(self._selected(mask) for mask in masks(name, args))
        self._workspaces(counted_workspaces(name, args, selected))
        unknown = any(t.is_meta for t in inputs)
        run = self._on_meta if unknown else self._with_values
        result = run(func, name, args, kwargs)
        self._register_results(name, result, self._requests(name, args, kwargs, result))
        if name == "masked_scatter":  # masked_scatter_ on a copy of self
            self._workspaces(counted_workspaces("masked_scatter_", args, ()))
        return result

    def _on_meta(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name in ("_to_copy", "to") and _moves_only(args[0], kwargs):
            return args[0]
        if name in ("index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"):
            args = (args[0], self._as_positions(args[1]), *args[2:])
        target = args[0] if args and isinstance(args[0], torch.Tensor) else None
        mutates_known = func._schema.is_mutable and target is not None and target.is_cpu and target.dim() > 0
        converted = _map(args, _to_meta)
        device = {"device": torch.device("meta")} if kwargs.get("device") is not None else {}
        result = self._run(func, name, converted, {**_map_dict(kwargs, _to_meta), **device})
        is_written = func._schema.is_mutable and isinstance(result, torch.Tensor)
        if mutates_known or (target is not None and is_written and not target.is_cpu):
            return target
        return result

    def _with_values(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Run an operator whose inputs all have values; the result keeps values if it is small."""
        if name in ("_to_copy", "to") and _moves_only(args[0], kwargs):
            return args[0]
        device = kwargs.get("device")
        if device is None and name not in _FACTORIES and _small_result(args):
            return pass_on(func, args, kwargs)
        on_cpu = {"device": torch.device("cpu")} if device is not None else {}
        try:
            on_meta = {**_map_dict(kwargs, _to_meta), **({"device": torch.device("meta")} if on_cpu else {})}
            shape = pass_on(func, _map(args, _to_meta), on_meta)
        except RuntimeError:  # NotImplementedError, an operator without a meta kernel, is one
            return pass_on(func, args, {**kwargs, **on_cpu})  # the size depends on the values: they are small
        if sum(t.untyped_storage().nbytes() for t in tensors_in([shape]) if not func._schema.is_mutable) > KNOWN_LIMIT:
            return shape
        return pass_on(func, args, {**kwargs, **on_cpu})

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        try:
            return result_of(func, args, kwargs)
        except RuntimeError as error:
            if not is_called_by_model():
                raise
            raise UnsupportedError(
                f"{self.listener.where() or 'the model'}: {name} does not run without data ({first_line(error)})"
            ) from error

    # ------------------------------------------------------------------ reading what is unknown
    def _answer(self, name: str, args: Any, kwargs: Any) -> tuple[bool, Any]:
        """Answer operators that hand a value to Python or whose result's size is a value."""
        tensor = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if tensor is None:
            return False, None
        if name == "masked_select":
            if tensor.is_meta or args[1].is_meta:
                return True, tensor.new_empty((self._selected(args[1]),), device="meta")
            return False, None
        if name == "_local_scalar_dense" and tensor.is_meta:
            return True, self._scalar(tensor)
        if name == "is_nonzero" and tensor.is_meta:
            return True, storage_key(tensor) in self._truths
        if name == "equal" and (tensor.is_meta or args[1].is_meta):
            return True, True
        if name == "nonzero" and tensor.is_meta:
            return True, torch.empty((self._selected(tensor), tensor.dim()), dtype=torch.int64, device="meta")
        return False, None

    def _scalar(self, tensor: torch.Tensor) -> Any:
        if tensor.dtype == torch.bool:
            return storage_key(tensor) in self._truths
        return 1.0 if tensor.is_floating_point() else 0

    def _selected(self, mask: torch.Tensor) -> int:
        """How many entries of a mask are true; for an unknown mask, as many as balanced routing selects."""
        if not mask.is_meta:
            return int(mask.count_nonzero())
        if mask.dim() == 1 and mask.numel() == self.experts:
            return self.experts  # which experts have tokens: all
        return mask.numel() // self.experts if self.experts else 0

    def _as_positions(self, indices: Any) -> list[torch.Tensor | None]:
        """Bool masks among indices as the positions that they select: meta kernels cannot count."""
        positions: list[torch.Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                positions.append(index)
                continue
            count = self._selected(index)
            positions += [torch.empty((count,), dtype=torch.int64, device="meta") for _ in range(index.dim())]
        return positions

    # ------------------------------------------------------------------ storages
    def _read(self, tensors: list[torch.Tensor]) -> None:
        if self._paused:
            return
        for tensor in tensors:
            key = storage_key(tensor)
            name = self._parameters.get(key)
            if name is not None:
                if key not in self._touched:
                    self._touched.add(key)
                    self.events.append(
                        Event("onload", bytes=tensor.untyped_storage().nbytes(), parameter=self.listener.relative(name))
                    )
            elif key not in self.ids:
                self.listener.on_read(key, tensor)

    def _register_results(self, name: str, result: Any, requests: Requests = NOTHING) -> Any:
        """Write down the result's new storages, and where they lie among what a CUDA build takes beside them."""
        counted = not (self._paused or self.is_uncounted(result))
        results = list(tensors_in([result]))
        named = {request.amount for request in requests if request.action == "result"}
        taken: list[int] = []
        for action, amount in requests if counted else ():
            if action == "result":
                for number, tensor in enumerate(results):
                    if number == amount or (amount == 0 and number not in named):
                        self._register(name, tensor, counted)
            elif action == "take":
                taken.append(self._next)
                where = self.listener.where()
                self.events.append(Event("alloc", self._next, amount, where, name, category="cuda", card=self.card))
                self._next += 1
            elif action == "give":
                self.events.append(Event("free", taken[amount], category="cuda"))
            else:
                self.events.append(Event("product", operator=self.thread, category="cuda", card=self.card))
        for tensor in results:
            self._register(name, tensor, counted)
        return result

    def _register(self, name: str, tensor: torch.Tensor, counted: bool) -> None:
        key = storage_key(tensor)
        if key in self._refs or key in self._parameters or (tensor.is_cpu and tensor.dim() == 0):
            return
        self._watch(tensor, key)
        if not counted:
            return
        self.ids[key] = self._next
        nbytes = tensor.untyped_storage().nbytes()
        dims, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        where, operator = self.listener.where(), name.strip("_")
        self.events.append(Event("alloc", self._next, nbytes, where, operator, dims=dims, dtype=dtype, card=self.card))
        self._next += 1
        if name in _READ_AS_TRUE and tensor.numel() == 1 and tensor.dtype == torch.bool:
            self._truths.add(key)

    def _watch(self, tensor: torch.Tensor, key: Key) -> None:
        if key not in self._refs:
            self._refs[key] = weakref.ref(tensor.untyped_storage(), partial(self._died, key))

    def _died(self, key: Key, _reference: object) -> None:
        self._refs.pop(key, None)
        self._truths.discard(key)
        self.listener.on_death(key)
        number = self.ids.pop(key, None)
        if number is not None:
            self.events.append(Event("free", number))

    def _workspaces(self, sizes: Sequence[tuple[int, str]]) -> None:
        """What the counting device takes for kernels, where a CUDA build's own events are left out."""
        for nbytes, name in sizes if not self._paused else ():
            self.events.append(Event("alloc", self._next, nbytes, operator=name, category="cuda_workspace"))
            self.events.append(Event("free", self._next, category="cuda_workspace"))
            self._next += 1

    def _requests(self, name: str, args: Any, kwargs: Any, result: Any) -> Requests:
        """What a CUDA build takes beside the result; an operator without a rule goes to `unruled`."""
        if self._paused or not any(True for _ in tensors_in([result, args])):
            return NOTHING
        selected = tuple(self._selected(mask) for mask in masks(name, args))
        requests = cuda_requests(name, args, kwargs, result, selected)
        if requests is None:
            self.unruled.add(name)
        return NOTHING if requests is None else requests


def storage_key(tensor: torch.Tensor) -> Key:
    """Identity of the storage behind a tensor while it lives."""
    return int(tensor.untyped_storage()._cdata)


def _map(values: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(values, torch.Tensor):
        return function(values)
    if isinstance(values, (list, tuple)):
        return type(values)(_map(v, function) for v in values)
    return values


def _map_dict(values: dict[str, Any], function: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    return {k: _map(v, function) for k, v in values.items()}


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta or tensor.dim() == 0:
        return tensor
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _moves_only(tensor: torch.Tensor, kwargs: dict[str, Any]) -> bool:
    """Whether `.to(device)` changes nothing: tensors with and without values stand for one and the same device."""
    dtype = kwargs.get("dtype")
    return kwargs.get("device") is not None and (dtype is None or dtype == tensor.dtype)


def _small_result(args: Any) -> bool:
    """Whether every pointwise result of these inputs is small, because their broadcast shape is."""
    numel = 1
    for tensor in tensors_in(args):
        numel *= max(1, tensor.numel())
    return numel * 8 <= KNOWN_LIMIT
