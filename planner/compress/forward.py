"""Replays a traced forward on the books, running the modifiers' hooks where the library does.

A modifier gets the forward as `context.forward`: while it runs, to keep a tensor that is passed (`retain`); afterwards,
to run a part of it again (`replay`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from planner.compress.calls import Calls, equal_calls
from planner.compress.context import Context
from planner.compress.holdings import Mark, Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.program import Subgraph
from planner.compress.traced_forward import Share
from planner.compress.watching import Form
from planner.errors import UnsupportedError
from planner.models.traces import COUNTED, CUDA, Call, CallValue, Event, ModelTrace, Segment, full_name
from planner.models.tuned import TunedBlock
from planner.recipe.targets import LinearModule
from planner.timeline import Handle

CALLS = 4
"""Equal calls walked before the others are passed over: what one leaves may stay until the second one after it."""


@dataclass(frozen=True, slots=True)
class Hooked:
    """One modifier, and the modules that it hooks by full name."""

    modifier: ModifierModel
    modules: Mapping[str, LinearModule]


class SubgraphForward:
    """`Subgraph.forward` of pipelines/sequential/helpers.py."""

    def __init__(self, context: Context, trace: ModelTrace, tuned: Mapping[str, TunedBlock] | None = None) -> None:
        self.context, self.trace, self._tuned = context, trace, tuned or {}
        self._segment = Segment(0, "", 0, (), (), ())
        """The one that is running."""
        self._last = 0
        """Index of the last segment of the running subgraph."""
        self._live: dict[int, Handle] = {}
        """Its tensors, by their ids in it."""
        self._parts: dict[int, list[Handle]] = {}
        """What took the place of parts of these tensors, by the same ids."""
        self._crossed: dict[int, Handle] = {}
        """Tensors that came over a border and are there for this batch alone, by crossing."""
        self.cached: dict[int, Handle] = {}
        """Crossings of the running batch that lie in the activation cache, and the holding that keeps them too."""
        self._spans: dict[int, dict[str, slice]] = {}
        self._calls: dict[int, tuple[Calls, ...]] = {}
        """By the structure of the segment."""
        self._hooked: tuple[Hooked, ...] = ()
        self._staying: tuple[Hooked, ...] = ()
        """Of the subgraph that ran last, the hooks that are in the model for good."""
        self._alike: dict[int, list[Calls]] = {}
        """Those that these modifiers treat alike, by the index of the segment."""
        self._leaving: tuple[Hooked, ...] = ()
        """The same in the order in which they run behind a forward."""

    def run(
        self,
        subgraph: Subgraph,
        hooked: tuple[Hooked, ...] = (),
        share: Share = (1, 1),
        inputs: Mapping[int, Handle] | None = None,
        *,
        again: bool = False,
    ) -> dict[int, Handle]:
        """Run the subgraph's segments; returns the storages that its output dictionary holds, by the first crossing
        that is a view of it and leaves the subgraph.

        What crosses from one segment to the next inside the subgraph dies with its last reader:
        the generated code sets each name to None after its last use (torch.fx codegen).
        `share` is the part of a whole batch that runs: (samples, batch size). `inputs` are the fetched tensors by
        crossing; those that the activation cache shares with the forward are not among them. `again`: these modifiers
        have seen the subgraph's modules before, in another batch of this pass.
        """
        self._staying = self._leaving = tuple(hooks for hooks in hooked if hooks.modifier.stays_in_forward)
        outputs: dict[int, Handle] = {}
        inner: dict[int, tuple[int, Handle]] = {}
        self._crossed, self._last = dict(inputs or {}), subgraph.segments[-1]
        self.cached.clear()
        for index in subgraph.segments:
            storages = self._run_segment(self.trace.segments[index], hooked, share, again)
            for local, numbers in _by_local(self.trace.segments[index]).items():
                if local not in storages:
                    continue
                last = max(self.trace.crossings[n].last_reader for n in numbers)
                if last > self._last:
                    leaving = next(n for n in numbers if self.trace.crossings[n].last_reader > self._last)
                    outputs[leaving] = storages.pop(local)
                else:
                    inner[numbers[0]] = (last, storages.pop(local))
                    self._crossed.update(dict.fromkeys(numbers, inner[numbers[0]][1]))
            self.context.ledger.free_all(storages.values())
            for number in [n for n, (last, _) in inner.items() if last <= index]:
                self.context.ledger.free(inner.pop(number)[1])
        return outputs

    def retain(self, value: CallValue, holding: Handle) -> None:
        """Keep a tensor of the running call: once the forward and its caller let go of it, `holding` counts it.

        Of several holdings that keep one tensor, the last counts it (`Ledger.bequeath`). One that the activation cache
        keeps on the computing device is counted there; if the cache lets go of it in this pass, in `holding` then.
        """
        tensor = self._handle_of(value)
        if tensor is not None:
            self.context.ledger.bequeath(tensor, holding)
        elif value.read >= 0:
            self.cached[self._segment.reads[value.read]] = holding

    def crossing(self, value: CallValue) -> int | None:
        """The crossing that a tensor of the running call is; None for one that no other segment sees."""
        if value.read >= 0:
            return self._segment.reads[value.read]
        crossings = self.trace.crossings
        own = (n for n, local in self._segment.writes if local == value.storage)
        return next((n for n in own if crossings[n].bytes == value.bytes), None)

    def replace(self, value: CallValue, new: Handle) -> None:
        """In a hook: this tensor takes the place of `value`, which goes; an empty one is nobody's.

        One that takes the place of a part of a tensor goes with that, which its other parts keep, or with the segment.
        """
        old = self._live.get(value.storage)
        if old is None:
            self.context.ledger.free(new)
        elif self.context.ledger.size(old) == self.context.ledger.size(new):
            self.context.ledger.free(old)
            self._live[value.storage] = new
        else:
            self._parts.setdefault(value.storage, []).append(new)

    def replay(self, module: str, share: Share = (1, 1)) -> tuple[Handle, ...]:
        """Run the module's forward again: all that is born in it, in order, and what dies in it. Of hooks, those run
        that stay in the model (compressed_tensors' transforms are none of HooksMixin, which disables its own).

        `module` is its full name; the first of several calls is taken. The arguments are the caller's: it holds them
        on the computing device meanwhile. Returns what the call returned and made itself, in the order of
        `Call.outputs`, each storage once: the caller frees them. Raises UnsupportedError for a module that was not
        called as one.
        """
        segment, span = self._call_of(module)
        events = segment.events[span]
        born = {event.id for event in events if event.kind == "alloc"}
        live: dict[int, Handle] = {}
        left_out = self.left_out

        def play(where: slice) -> None:
            for event in segment.events[where]:
                if event.call is not None:
                    begins = event.kind == "enter"
                    _run_hooks(segment, begins, event.call, self._staying if begins else self._leaving, share)
                elif event.category != left_out and (event.kind != "free" or event.id in born):  # not the arguments
                    self._play(segment, event, live, share)

        self._live = live
        done = span.start
        for calls in self._equal_calls(segment, self._staying) if self.context.shortcuts.calls else ():
            if span.start < calls.begin and calls.end < span.stop:
                play(slice(done, calls.begin))
                self._walk(segment, calls, play)
                done = calls.end
        play(slice(done, span.stop))
        returned = events[-1].call.outputs if events[-1].call else ()
        storages = dict.fromkeys(value.storage for value in returned if value.storage in live)
        handles = tuple(live.pop(storage) for storage in storages)
        self.context.ledger.free_all(live.values())
        self._leave_parts()
        return handles

    def enable(self, own: Hooked) -> None:
        """What these modules do in their own forward from now on, inside of all hooks: in each replay."""
        self._staying, self._leaving = (*self._staying, own), (own, *self._leaving)

    def tuned(self, layer: str) -> TunedBlock | None:
        """How a modifier of this job trains the layer; None where it does not."""
        return self._tuned.get(layer)

    @property
    def left_out(self) -> str:
        """The category of events that are not this device's."""
        return COUNTED if self.context.cuda and self.context.device == "gpu" else CUDA

    # ------------------------------------------------------------------ one segment
    def _run_segment(
        self, segment: Segment, hooked: tuple[Hooked, ...], share: Share, again: bool
    ) -> dict[int, Handle]:
        """Replay one segment; returns the storages that are alive at its end, by local id."""
        live: dict[int, Handle] = {}
        self._segment, self._live = segment, live
        left_out = self.left_out

        def replay(where: slice) -> None:
            for event in segment.events[where]:
                if event.call is None:
                    if event.category != left_out:
                        self._play(segment, event, live, share)
                elif hooked:
                    _run_hooks(segment, event.kind == "enter", event.call, hooked, share)

        done = 0
        for calls in self._equal_calls(segment, hooked) if again and self.context.shortcuts.calls else ():
            replay(slice(done, calls.begin))
            self._walk(segment, calls, replay)
            done = calls.end
        replay(slice(done, None))
        self._leave_parts()
        return live

    def _leave_parts(self) -> None:
        """The local names of a forward go, and with them what only they have."""
        for number in list(self._parts):
            self.context.ledger.free_all(self._parts.pop(number))

    def _walk(self, segment: Segment, calls: Calls, replay: Callable[[slice], None]) -> None:
        """Equal calls: the first few and the last two, if the first few show that the others change nothing."""
        ledger, marks, number = self.context.ledger, list[Mark](), 0
        while number < calls.count:
            marks.append(ledger.mark())
            replay(calls.block(number))
            times = calls.count - 3 - number
            if len(marks) == CALLS and times > 1 and ledger.again(marks, times):
                calls.rename(segment.events, self._live, number, times)
                number += times
            number += 1

    def _equal_calls(self, segment: Segment, hooked: tuple[Hooked, ...]) -> list[Calls]:
        """Where modules are called one after the other that the modifiers treat alike."""
        if hooked is not self._hooked:
            self._hooked, self._alike = hooked, {}
        if segment.index not in self._alike:
            if segment.structure not in self._calls:
                self._calls[segment.structure] = equal_calls(segment.events)
            called = (event.call.module if event.call else None for event in segment.events)
            names = [full_name(segment.target, name) if name is not None else None for name in called]
            self._alike[segment.index] = [
                calls
                for calls in self._calls[segment.structure]
                if all(calls.are_alike(names, hooks.modules) for hooks in hooked)
            ]
        return self._alike[segment.index]

    def _play(self, segment: Segment, event: Event, live: dict[int, Handle], share: Share) -> None:
        """Do on the books what the event says, if it is about memory."""
        context = self.context
        if event.kind == "alloc":
            owner = _owner(segment.target, event.module, event.operator)
            is_whole = bool(event.dims) and event.dims[0] % share[1] != 0  # as cos and sin, the same for all samples
            nbytes = event.bytes if is_whole else _scaled(event.bytes, share)
            live[event.id] = context.ledger.alloc(context.device, nbytes, event.category, owner)
            if context.ledger.watch and event.dtype:
                context.ledger.watch.forms[live[event.id]] = Form(_scaled_dims(event.dims, share), event.dtype)
        elif event.kind == "free":
            context.ledger.free(live.pop(event.id))
            if event.id in self._parts:
                context.ledger.free_all(self._parts.pop(event.id))
        elif event.kind == "onload":
            name, module = full_name(segment.target, event.parameter), full_name(segment.target, event.module)
            waits = name in context.waiting or context.losses.is_taken(name, module)  # a matrix of a traced hook
            context.onload(name, event.bytes, "transform" if waits else "weights", waits=waits)
        elif event.kind == "product":
            context.multiply()

    def _handle_of(self, value: CallValue) -> Handle | None:
        """The holding of this tensor, if it is one of its own that dies with the batch."""
        if value.storage >= 0:
            return None if self._goes_to_cache(value.storage) else self._live.get(value.storage)
        return self._crossed.get(self._segment.reads[value.read]) if value.read >= 0 else None

    def _goes_to_cache(self, storage: int) -> bool:
        """Whether a later subgraph reads this tensor, and the activation cache will hold the very same."""
        if self.context.job.offload_device != self.context.device:
            return False
        crossings = (self.trace.crossings[n] for n, local in self._segment.writes if local == storage)
        return any(crossing.last_reader > self._last for crossing in crossings)

    # ------------------------------------------------------------------ finding a call
    def _call_of(self, module: str) -> tuple[Segment, slice]:
        """The segment that calls the module, and where its events lie, from the call's beginning to its end."""
        for segment in self.trace.segments:
            span = self._spans_in(segment).get(_name_in(segment, module))
            if span is not None:
                return segment, span
        raise UnsupportedError(f"{module} cannot run again: the traced forward never calls it as one module")

    def _spans_in(self, segment: Segment) -> dict[str, slice]:
        """Where the first call of each module lies among the events; equal segments are looked through once."""
        if segment.structure not in self._spans:
            begins: dict[str, int] = {}
            spans: dict[str, slice] = {}
            for position, event in enumerate(segment.events):
                if event.call is not None and event.kind == "enter":
                    begins.setdefault(event.call.module, position)
                elif event.call is not None and event.call.module in begins:
                    spans.setdefault(event.call.module, slice(begins[event.call.module], position + 1))
            self._spans[segment.structure] = spans
        return self._spans[segment.structure]


def _run_hooks(segment: Segment, before: bool, call: Call, hooked: Iterable[Hooked], share: Share) -> None:
    name = full_name(segment.target, call.module)
    for hooks in hooked:
        module = hooks.modules.get(name)
        if module is None:
            continue
        run = hooks.modifier.before_forward if before else hooks.modifier.after_forward
        run(module, _scaled_call(call, share))
    for hooks in hooked if not before else ():
        if hooks.modifier.stays_in_forward and name in hooks.modules:
            hooks.modifier.returned(hooks.modules[name], call)


def _scaled_call(call: Call, share: Share) -> Call:
    """The call in a smaller batch."""
    if share == (1, 1):
        return call
    return replace(
        call,
        rows=_scaled(call.rows, share),
        dims=_scaled_dims(call.dims, share),
        output=_scaled_dims(call.output, share),
        arguments=tuple(_scaled_value(value, share) for value in call.arguments),
        outputs=tuple(_scaled_value(value, share) for value in call.outputs),
    )


def _scaled_value(value: CallValue, share: Share) -> CallValue:
    """The tensor in a smaller batch; one without a sample in each row of its first side is the same in every batch."""
    if not value.dims or value.dims[0] % share[1]:
        return value
    return replace(value, bytes=_scaled(value.bytes, share), dims=_scaled_dims(value.dims, share))


def _scaled_dims(dims: tuple[int, ...], share: Share) -> tuple[int, ...]:
    samples, size = share
    return (dims[0] * samples // size, *dims[1:]) if dims and dims[0] % size == 0 else dims


def _scaled(amount: int, share: Share) -> int:
    """Bytes or rows in a smaller batch. An amount that the batch size does not divide is the same in every batch."""
    samples, batch_size = share
    return amount * samples // batch_size if amount % batch_size == 0 else amount


@lru_cache(maxsize=2**16)
def _owner(target: str, module: str, operator: str) -> Owner:
    """The module whose forward makes the tensor, in the role of the operator that makes it."""
    return Owner(full_name(target, module), operator) if module else Owner(operator)


def _name_in(segment: Segment, module: str) -> str:
    """The inverse of `full_name`: what the segment's events call this module."""
    target = segment.target
    if target and f"{module}.".startswith(f"{target}."):
        return module[len(target) :] or "."
    return module


def _by_local(segment: Segment) -> dict[int, list[int]]:
    """Local storage id -> the crossings that are views of it."""
    grouped: dict[int, list[int]] = {}
    for number, local in segment.writes:
        grouped.setdefault(local, []).append(number)
    return grouped
