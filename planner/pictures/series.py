"""Levels of a whole job, step after step, few enough to be drawn: what a slide and a trace are made of.

The highest moment of every step is the plan's figure, to the byte.
"""

from collections.abc import Iterator, Sequence

from planner.compress.schema import CpuStep, GpuStep, Plan, Step
from planner.pictures.reading import LevelAt, on_device, parts_on, step_levels
from planner.pictures.schema import DeviceKey, OnDevice, Picture


def job_levels(plan: Plan, picture: Picture, device: DeviceKey, moments: int) -> list[list[LevelAt]]:
    """The levels of every step on one device, each with ticks from its own beginning.

    About `moments` of a step: of so many stretches of equal length the highest, and the last. A step whose events are
    not in the picture has its peak and its end, or what its parts are at the peak. Parts are in the picture's order.
    """
    drawn: dict[int, list[LevelAt]] = {}
    found = []
    for step in plan.steps:
        place = picture.steps[step.index].devices[device]
        if place.curves is None:
            found.append(_bare(step, picture, device))
            continue
        if place.curves not in drawn:
            whole = step_levels(picture, step.index, device) or []
            drawn[place.curves] = [_padded(each, len(picture.parts)) for each in _thinned(whole, moments)]
        found.append(list(_of_step(drawn[place.curves], step, place, picture, device)))
    return found


def _bare(step: Step, picture: Picture, device: DeviceKey) -> list[LevelAt]:
    planned = on_device(step, device)
    if planned is None:
        return []
    parts = [0] * len(picture.parts)
    numbers = {kind.kind: kind.cpu_part if device == "cpu" else kind.gpu_part for kind in picture.kinds}
    for kind, nbytes in planned.by_kind.items():
        parts[numbers.get(kind, len(parts) - 1)] += nbytes
    return [LevelAt(0, tuple(parts), *_on_card(planned))]


def _on_card(planned: GpuStep | CpuStep) -> tuple[int, int]:
    """The most that the allocator held; nothing where there is none."""
    if isinstance(planned, CpuStep) or planned.peak_reserved_bytes is None:
        return 0, 0
    return planned.peak_allocated_bytes, planned.peak_reserved_bytes


def _of_step(
    levels: Sequence[LevelAt], step: Step, place: OnDevice, picture: Picture, device: DeviceKey
) -> Iterator[LevelAt]:
    """The levels with what is larger or smaller in this step.

    Where the allocator's curves were drawn of another step, its peaks in this one stand for the whole of it.
    """
    more, part_of = [0] * len(picture.parts), parts_on(picture, device)
    for shift in place.shifts:
        more[part_of[shift.what]] += shift.bytes
    planned = on_device(step, device)
    flat = None if place.own_card or planned is None else _on_card(planned)
    for tick, parts, allocated, reserved in levels:
        here = tuple(a + b for a, b in zip(parts, more, strict=True))
        yield LevelAt(tick, here, *(flat or (allocated, reserved)))


def _padded(level: LevelAt, parts: int) -> LevelAt:
    return level._replace(parts=level.parts + (0,) * (parts - len(level.parts)))


def _thinned(levels: Sequence[LevelAt], moments: int) -> list[LevelAt]:
    """Of so many stretches the moment at which most is requested; where the allocator holds most in the whole step; the
    first and the last."""
    if len(levels) <= moments:
        return list(levels)
    kept = {0, len(levels) - 1}
    for number in range(moments):
        stretch = range(number * len(levels) // moments, (number + 1) * len(levels) // moments)
        if stretch:
            kept.add(max(stretch, key=lambda at: levels[at].requested))
    for figure in ("allocated", "reserved"):
        kept.add(max(range(len(levels)), key=lambda at: int(getattr(levels[at], figure))))
    return [levels[at] for at in sorted(kept)]
