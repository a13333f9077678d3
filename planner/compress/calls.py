"""Equal calls inside one forward, one after the other: the experts of a mixture."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.compress.alike import Shape, runs
from planner.models.traces import Event
from planner.recipe.targets import LinearModule
from planner.timeline import Handle

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Calls:
    """Events of a forward that repeat each other block by block, but for numbers in names and ids of tensors."""

    begin: int
    """Place of the first one."""
    length: int
    """Of a block."""
    count: int
    """Of blocks."""

    def block(self, number: int) -> slice:
        """Where the events of one lie."""
        begin = self.begin + number * self.length
        return slice(begin, begin + self.length)

    @property
    def end(self) -> int:
        """Place behind the last event."""
        return self.begin + self.count * self.length

    def are_alike(self, names: Sequence[str | None], modules: Mapping[str, LinearModule]) -> bool:
        """Each block calls the same modules of these, but for their names; `names`: of what each event calls."""

        def called(number: int) -> list[LinearModule | None]:
            found = (modules.get(name) for name in names[self.block(number)] if name is not None)
            return [replace(module, name="") if module else None for module in found]

        first = called(0)
        return all(called(number) == first for number in range(1, self.count))

    def rename(self, events: Sequence[Event], live: dict[int, Handle], number: int, times: int) -> None:
        """So many blocks after this one are over too: what the last two left goes by the ids that the very last use."""
        moved: dict[int, Handle] = {}
        for before in (number - 1, number):
            for old, new in zip(events[self.block(before)], events[self.block(before + times)], strict=True):
                if old.kind == "alloc" and old.id in live:
                    moved[new.id] = live.pop(old.id)
        live.update(moved)


def equal_calls(events: Sequence[Event]) -> tuple[Calls, ...]:
    """All in one segment, in order: those whose blocks keep no tensor that somebody frees later on."""
    found = (Calls(begin, length, (end - begin) // length) for begin, end, length in runs(_shape(events)))
    lives = _lives(events)
    return tuple(calls for calls in found if _pass_nothing_on(calls, lives))


def _lives(events: Sequence[Event]) -> list[tuple[int, int]]:
    """Where each tensor is taken and freed; behind all events for one that leaves the segment."""
    births: dict[int, int] = {}
    lives = []
    for here, event in enumerate(events):
        if event.kind == "alloc":
            births[event.id] = here
        elif event.kind == "free" and event.id in births:
            lives.append((births.pop(event.id), here))
    return [*lives, *((birth, len(events)) for birth in births.values())]


def _pass_nothing_on(calls: Calls, lives: Iterable[tuple[int, int]]) -> bool:
    """What a block takes, it or the next one frees, but for the last two, whose tensors `rename` finds; what it frees
    was taken no earlier. Blocks could not be passed over otherwise: their tensors would not be there."""
    last = calls.begin + (calls.count - 2) * calls.length
    for birth, death in lives:
        is_inside = calls.begin <= birth < last
        dies_late = death - birth >= 2 * calls.length and calls.begin + 2 * calls.length <= death
        if is_inside and dies_late:
            return False
        if birth < calls.begin and calls.begin + 2 * calls.length <= death < calls.end:
            return False
    return True


def _shape(events: Sequence[Event]) -> Shape:
    """A number for what each event is; how far back (negative) a tensor was taken that is freed."""
    kinds: dict[object, int] = {}
    births: dict[int, int] = {}
    shape: Shape = []
    for here, event in enumerate(events):
        if event.kind == "free" and event.id in births:
            shape.append(births.pop(event.id) - here)
        elif event.kind == "free":
            shape.append(None)
        else:
            if event.kind == "alloc":
                births[event.id] = here
            shape.append(kinds.setdefault(_what(event), len(kinds) + 1))
    return shape


def _what(event: Event) -> object:
    name, call = _NUMBER.sub("#", event.name), event.call
    about = event.kind, event.bytes, event.category, name
    if call is None:
        return about
    values = tuple((value.name, value.bytes, value.dims) for value in (*call.arguments, *call.outputs))
    shape = call.rows, call.columns, call.itemsize, call.contiguous, call.dims, call.output, call.output_itemsize
    return *about, _NUMBER.sub("#", call.module), shape, values
