"""Makes curves of a step's events: few enough to be drawn, exact where it is highest.

A step has up to some ten thousand events. At most `MOMENTS` of them are kept: of some hundred stretches of equal length
the highest and the lowest moment each, and those at which the allocator holds most. At a moment that is kept, every
part is what it really is, so the parts sum to the total there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import isqrt, sqrt
from typing import NamedTuple

from planner.compress.holdings import About, Owner
from planner.compress.parts import PARTS, part_number
from planner.compress.watching import Form, StepLog
from planner.pictures.reading import levels
from planner.pictures.schema import KindPicture, Stairs, StepCurves, WhatPicture
from planner.timeline import Handle
from planner.units import FP32
from planner.upstream_lines import Line, line_of

MOMENTS = 600
"""Of a step on one device."""
MANY = 150
"""Curves of a job; further ones show less and less, so that the picture stays small."""
HELD = 160
"""Holdings of a step on one device that are shown one by one."""


class Described(NamedTuple):
    """What an album's holdings are."""

    whats: tuple[WhatPicture, ...]
    lines: tuple[str, ...]


class SeenStep(NamedTuple):
    """One device in one step, as the album has it."""

    curves: int
    """Their place in the album."""
    whats: tuple[int, ...] | None
    """What its holdings are, where the curves were drawn of another step; as a curve has them."""
    length: int
    """Ticks of the step."""
    milestones: tuple[tuple[int, str], ...]


class Drawn(NamedTuple):
    """Curves, and which of the step's holdings they show one by one."""

    curves: int
    shown: tuple[int, ...]
    """Places among the step's holdings in the order of their numbers."""


@dataclass(slots=True)
class Album:
    """The curves of a job's steps as they are walked, with names and kinds that are written once.

    Steps whose events are equal but for names share their curves.
    """

    curves: list[StepCurves] = field(default_factory=list)
    steps: list[SeenStep] = field(default_factory=list)
    """Each device of each step that was seen."""
    drawn: dict[object, Drawn] = field(default_factory=dict)
    """By the step's events."""
    whats: dict[tuple[Owner, str, Form | None, Line | None], int] = field(default_factory=dict)
    """By what makes it one: two modifiers allocate what is called alike in two places."""
    sizes: dict[int, int] = field(default_factory=dict)
    """The most that one of each has, by its number."""
    kinds: dict[str, int] = field(default_factory=dict)
    _on_card: dict[int, tuple[int, int]] = field(default_factory=dict)

    def most_on_card(self, number: int) -> tuple[int, int]:
        """(allocated, reserved) at most in these curves, as they are drawn: many steps share them, and ask."""
        if number not in self._on_card:
            curves = self.curves[number]
            drawn = levels(curves, [0] * (1 + max(accumulate(curves.whats), default=0)))
            self._on_card[number] = max(each.allocated for each in drawn), max(each.reserved for each in drawn)
        return self._on_card[number]

    def detail(self, most: int) -> int:
        """How much of so much the next curves show: less in a job that has very many steps of its own each."""
        return max(1, most * MANY // max(MANY, len(self.curves)))

    def see(self, log: StepLog) -> int:
        """Keep a step; its number."""
        handles = sorted({*log.opening, *(handle for handle, _, _ in log.events)})
        key = _events(log, handles)
        drawn, whats = self.drawn.get(key), None
        if drawn is None:
            curves, shown = _condensed(log, self)
            self.curves.append(curves)
            places = {handle: place for place, handle in enumerate(handles)}
            self.drawn[key] = drawn = Drawn(len(self.curves) - 1, tuple(places[handle] for handle in shown))
        else:
            numbers = self.whats_of(log, [handles[place] for place in drawn.shown])
            for drawn_as, number in zip(accumulate(self.curves[drawn.curves].whats), numbers, strict=True):
                self.sizes[number] = max(self.sizes.get(number, 0), self.sizes.get(drawn_as, 0))
            whats = _since_before(numbers)
            if whats == self.curves[drawn.curves].whats:
                whats = None
        milestones = tuple((each.tick, each.text) for each in log.milestones)
        self.steps.append(SeenStep(drawn.curves, whats, log.length, milestones))
        return len(self.steps) - 1

    def whats_of(self, log: StepLog, shown: Sequence[Handle]) -> list[int]:
        """The numbers of what these holdings of the step are."""
        about = [log.about(handle) for handle in shown]
        forms = map(log.form, shown)
        return [self.what(each.owner, each.kind, log.modifier, form) for each, form in zip(about, forms, strict=True)]

    def what(self, owner: Owner, kind: str, modifier: str | None, form: Form | None = None) -> int:
        """The number of what this is in a step of this modifier."""
        self.kinds.setdefault(kind, len(self.kinds))
        return self.whats.setdefault((owner, kind, form, line_of(modifier, kind, owner.role)), len(self.whats))

    def described(self, shapes: Mapping[str, Form]) -> Described:
        """All that holds bytes, by its number, and the lines of the library that are named there.

        `shapes` of weights by their full names.
        """
        lines: dict[str, int] = {}
        whats = []
        for (owner, kind, form, line), number in self.whats.items():
            known = form or (shapes.get(owner.name) if kind == "weights" and not owner.role else None)
            known = known or (line and _square(line, self.sizes.get(number, 0)))
            whats.append(
                WhatPicture(
                    name=owner.name,
                    role=owner.role,
                    copies=owner.copies,
                    kind=self.kinds[kind],
                    shape=known.dims if known else None,
                    dtype=known.dtype if known else line.dtype if line else None,
                    line=lines.setdefault(line.where.replace("`", ""), len(lines)) if line else None,
                )
            )
        return Described(tuple(whats), tuple(lines))

    def kind_pictures(self) -> tuple[KindPicture, ...]:
        """All kinds, by their numbers."""
        return tuple(
            KindPicture(kind=kind, gpu_part=part_number(kind, "gpu"), cpu_part=part_number(kind, "cpu"))
            for kind in self.kinds
        )


def _square(line: Line, nbytes: int) -> Form | None:
    """How a square matrix of so many bytes is shaped, where the line makes one; of fp32, as all of these are."""
    side = isqrt(nbytes // FP32)
    return Form((side, side), "float32") if line.is_square and side and side * side * FP32 == nbytes else None


def _events(log: StepLog, handles: Sequence[Handle]) -> object:
    """All that curves are drawn from, whoever holds the bytes: equal for steps that are drawn alike."""
    place = {handle: number for number, handle in enumerate(handles)}
    return (
        log.device,
        log.length,
        tuple(log.about(handle).kind for handle in handles),
        tuple((place[handle], nbytes) for handle, nbytes in log.opening.items()),
        tuple((place[handle], nbytes, tensors) for handle, nbytes, tensors in log.events),
        tuple(log.ticks),
        tuple(log.on_card),
    )


def _condensed(log: StepLog, album: Album) -> tuple[StepCurves, list[Handle]]:
    """The step's curves, and the holdings that they show one by one."""
    about = {handle: log.about(handle) for handle in (*log.opening, *(handle for handle, _, _ in log.events))}
    moments, held = _moments(log), _held(log)
    most = album.detail(MOMENTS), album.detail(HELD)
    chosen = _thinned(moments, most[0])
    order = _ranked(held, max(moments, key=_total)[0], log.length)
    shown = sorted(order[: most[1]], key=lambda handle: (held[handle][0], handle))
    births = [held[handle][0] for handle in shown]
    whats = album.whats_of(log, shown)
    for what, handle in zip(whats, shown, strict=True):
        album.sizes[what] = max(album.sizes.get(what, 0), *held[handle][1::2])
    curves = StepCurves(
        whats=_since_before(whats),
        begins=_since_before(births),
        changes=tuple(_changes(_pairs(held[each]), birth) for each, birth in zip(shown, births, strict=True)),
        smaller=len(order) - len(shown),
        rest=_rest(log, chosen, set(shown), about) if len(order) > len(shown) else (),
        moments=_since_before([tick for tick, *_ in chosen]) if len(chosen) < len(moments) else (),
        slack=_changes((tick, card[0] - total) for tick, total, card in chosen) if log.on_card[-1].reserved else (),
        reserved=_changes((tick, card[1]) for tick, _, card in chosen),
    )
    return curves, shown


def _ranked(held: Mapping[Handle, Sequence[int]], peak: int, length: int) -> list[Handle]:
    """What a reader looks for first: what lies there at the peak, the largest first; then what is large and stays."""

    def rank(handle: Handle) -> tuple[bool, float, Handle]:
        changes = _pairs(held[handle])
        most, born, (dies, left) = max(nbytes for _, nbytes in changes), changes[0][0], changes[-1]
        at_peak = next((nbytes for tick, nbytes in reversed(changes) if tick <= peak), 0)
        life = (length + 1 if left else dies) - born
        return not at_peak, -at_peak or -most * sqrt(life), handle

    return sorted(held, key=rank)


def _since_before(numbers: Sequence[int]) -> tuple[int, ...]:
    """Differences, each from the number before: what repeats itself is written alike."""
    return tuple(number - before for number, before in zip(numbers, [0, *numbers], strict=False))


def _pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


Moment = tuple[int, int, tuple[int, int]]
"""(tick, bytes requested, (allocated, reserved))."""


def _moments(log: StepLog) -> list[Moment]:
    """All moments of the step: events of one tick are one."""
    card = log.on_card if len(log.on_card) > len(log.events) else ((0, 0),) * (len(log.events) + 1)
    total = sum(log.opening.values())
    moments: list[Moment] = [(0, total, (card[0][0], card[0][1]))]
    for (_, nbytes, tensors), tick, (allocated, reserved) in zip(log.events, log.ticks, card[1:], strict=True):
        total += nbytes * tensors
        if moments[-1][0] == tick:
            moments.pop()
        moments.append((tick, total, (allocated, reserved)))
    if moments[-1][0] != log.length:
        moments.append((log.length, *moments[-1][1:]))
    return moments


def _thinned(moments: list[Moment], most: int) -> list[Moment]:
    """Those that are kept."""
    if len(moments) <= most:
        return moments
    kept = {0, len(moments) - 1}
    stretches = max(1, most // 4)
    for number in range(stretches):
        where = range(number * len(moments) // stretches, (number + 1) * len(moments) // stretches)
        for figure in (_total, _allocated, _reserved):
            kept.add(max(where, key=lambda index: figure(moments[index])))
        kept.add(min(where, key=lambda index: moments[index][1]))
    return [moments[index] for index in sorted(kept)]


def _total(moment: Moment) -> int:
    return moment[1]


def _allocated(moment: Moment) -> int:
    return moment[2][0]


def _reserved(moment: Moment) -> int:
    return moment[2][1]


def _rest(
    log: StepLog, chosen: Sequence[Moment], shown: Collection[Handle], about: Mapping[Handle, About]
) -> tuple[Stairs, ...]:
    """Bytes of each part at the chosen moments, without the holdings that are shown one by one."""
    part_of = {kind: part_number(kind, log.device) for kind in {each.kind for each in about.values()}}
    level, series = [0] * len(PARTS), [list[tuple[int, int]]() for _ in PARTS]
    events = [event for event in zip(log.ticks, log.events, strict=True) if event[1][0] not in shown]
    for handle, nbytes in log.opening.items():
        if handle not in shown:
            level[part_of[about[handle].kind]] += nbytes
    done = 0
    for tick, _, _ in chosen:
        while done < len(events) and events[done][0] <= tick:
            handle, nbytes, tensors = events[done][1]
            level[part_of[about[handle].kind]] += nbytes * tensors
            done += 1
        for part, nbytes in enumerate(level):
            if nbytes != (series[part][-1][1] if series[part] else 0):
                series[part].append((tick, nbytes))
    return tuple(map(_changes, series))


def _changes(points: Iterable[tuple[int, int]], begin: int = 0) -> Stairs:
    """The points at which it changes, from `begin` on; nothing where it is never anything."""
    changes: list[int] = []
    before, last = begin, 0
    for tick, nbytes in points:
        if nbytes != last:
            changes += (tick - before, nbytes)
            before, last = tick, nbytes
    return tuple(changes)


def _held(log: StepLog) -> dict[Handle, list[int]]:
    """The changes of every holding."""
    held = {handle: [0, nbytes] for handle, nbytes in log.opening.items()}
    for (handle, nbytes, tensors), tick in zip(log.events, log.ticks, strict=True):
        changes = held.setdefault(handle, [tick, 0])
        after = changes[-1] + nbytes * tensors
        if changes[-2] == tick:
            changes[-1] = after
        else:
            changes += (tick, after)
    return {handle: changes for handle, changes in held.items() if any(changes[1::2])}
