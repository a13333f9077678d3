"""Reads the curves of a picture: how much is held at a moment, and by whom. assets/planner.js does the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from planner.pictures.schema import DeviceKey, HeldPicture, KindPicture, Picture, Stairs, StepCurves


class LevelAt(NamedTuple):
    """Bytes on one device at one tick."""

    tick: int
    parts: tuple[int, ...]
    """Requested, in the order of the picture's parts."""
    allocated: int
    """0 where the allocator was not simulated, as is"""
    reserved: int

    @property
    def requested(self) -> int:
        return sum(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """A holding at one moment."""

    held: HeldPicture
    bytes: int


def points(changes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(tick, bytes), one after the other, with ticks from the beginning."""
    return zip(accumulate(changes[::2]), changes[1::2], strict=True)


def at(changes: Stairs, tick: int) -> int:
    """What holds at this tick."""
    found = 0
    for begin, nbytes in points(changes):
        if begin > tick:
            break
        found = nbytes
    return found


def levels(curves: StepCurves, kinds: Sequence[KindPicture], device: DeviceKey) -> list[LevelAt]:
    """What is held at every moment at which the curves are exact."""
    changes: list[tuple[int, int, int]] = []
    """(tick, part, bytes more)."""
    for birth, held in births(curves):
        part = kinds[held.kind].cpu_part if device == "cpu" else kinds[held.kind].gpu_part
        changes += ((birth + tick, part, more) for tick, more in _differences(held.changes))
    for part, rest in enumerate(curves.rest):
        changes += ((tick, part, more) for tick, more in _differences(rest))
    changes.sort(key=lambda change: change[0])
    slack, reserved = dict(points(curves.slack)), dict(points(curves.reserved))
    ticks = sorted({0, *(tick for tick, _, _ in changes), *slack, *reserved})
    return list(_swept(list(accumulate(curves.moments)) or ticks, changes, slack, reserved))


def _swept(
    ticks: Sequence[int], changes: Sequence[tuple[int, int, int]], slack: dict[int, int], reserved: dict[int, int]
) -> Iterator[LevelAt]:
    parts = [0] * (1 + max((part for _, part, _ in changes), default=0))
    done, beyond, segments = 0, 0, 0
    for tick in ticks:
        while done < len(changes) and changes[done][0] <= tick:
            _, part, more = changes[done]
            parts[part] += more
            done += 1
        beyond, segments = slack.get(tick, beyond), reserved.get(tick, segments)
        yield LevelAt(tick, tuple(parts), sum(parts) + beyond if reserved else 0, segments)


def _differences(changes: Stairs) -> Iterator[tuple[int, int]]:
    before = 0
    for tick, nbytes in points(changes):
        yield tick, nbytes - before
        before = nbytes


def births(curves: StepCurves) -> Iterator[tuple[int, HeldPicture]]:
    """Every holding, and the tick at which it begins."""
    return zip(accumulate(held.begin for held in curves.held), curves.held, strict=True)


def alive(curves: StepCurves, tick: int) -> list[Alive]:
    """The holdings that are shown one by one and hold anything then, the largest first."""
    found = [Alive(held=held, bytes=at(held.changes, tick - birth)) for birth, held in births(curves) if birth <= tick]
    return sorted((each for each in found if each.bytes), key=lambda each: -each.bytes)


def peak_of(picture: Picture, step: int, device: DeviceKey) -> LevelAt | None:
    """The moment of a step at which most is requested; None where the step's events are not in the picture.

    In a copied step, holdings that are shifted are larger or smaller all the time (`OnDevice.shifts`).
    """
    place = picture.steps[step].devices[device]
    if place.curves is None:
        return None
    found = levels(picture.curves[place.curves], picture.kinds, device)
    return max(found, key=lambda level: level.requested)
