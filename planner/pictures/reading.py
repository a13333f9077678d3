"""Reads the curves of a picture: how much is held at a moment, and by whom. assets/job.js does the same."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, overload

from planner.compress.holdings import Peak
from planner.compress.program import StepMemory
from planner.compress.schema import CpuPeak, CpuStep, GpuPeak, GpuStep, Plan, Step
from planner.pictures.schema import DeviceKey, Picture, Stairs, StepCurves


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


class Alive(NamedTuple):
    """A holding at one moment."""

    what: int
    """Its place in the picture's whats."""
    bytes: int


@overload
def on_device(figures: StepMemory, device: DeviceKey) -> Peak | None: ...
@overload
def on_device(figures: Step, device: DeviceKey) -> GpuStep | CpuStep | None: ...
@overload
def on_device(figures: Plan, device: DeviceKey) -> GpuPeak | CpuPeak | None: ...
def on_device(figures: Any, device: DeviceKey) -> Any:
    """The figures of a plan or a step on one device; None for a second GPU that the job does not have."""
    return {"gpu": figures.gpu, "gpu1": figures.second_gpu, "cpu": figures.cpu}[device]


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


def levels(curves: StepCurves, part_of: Sequence[int]) -> list[LevelAt]:
    """What is held at every moment at which the curves are exact. `part_of`: the part of each of the whats."""
    changes: list[tuple[int, int, int]] = []
    """(tick, part, bytes more)."""
    for birth, what, held in births(curves):
        changes += ((birth + tick, part_of[what], more) for tick, more in _differences(held))
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


def births(curves: StepCurves, whats: Sequence[int] | None = None) -> Iterator[tuple[int, int, Stairs]]:
    """Of every holding the tick of its birth, what it is, and its bytes from then on; `whats` as a step has them."""
    return zip(accumulate(curves.begins), accumulate(whats or curves.whats), curves.changes, strict=True)


def alive(curves: StepCurves, tick: int, whats: Sequence[int] | None = None) -> list[Alive]:
    """The holdings that are shown one by one and hold anything then, the largest first; `whats` as a step has them."""
    found = (Alive(what, at(held, tick - birth)) for birth, what, held in births(curves, whats) if birth <= tick)
    return sorted((each for each in found if each.bytes), key=lambda each: -each.bytes)


def parts_on(picture: Picture, device: DeviceKey) -> list[int]:
    """The part in which this device shows each of the picture's whats."""
    kinds = [kind.cpu_part if device == "cpu" else kind.gpu_part for kind in picture.kinds]
    return [kinds[what.kind] for what in picture.whats]


def step_levels(picture: Picture, step: int, device: DeviceKey) -> list[LevelAt] | None:
    """What a step of the plan holds moment by moment, itself or the one that it copies, without what is shifted.

    None where its events are not in the picture.
    """
    number = picture.steps[step].devices[device].curves
    return None if number is None else levels(picture.curves[number], parts_on(picture, device))


def peak_of(picture: Picture, step: int, device: DeviceKey) -> LevelAt | None:
    """The moment of a step at which most is requested, as `step_levels` has it."""
    found = step_levels(picture, step, device)
    return max(found, key=lambda level: level.requested) if found else None
