"""What is alive at the peak of a step, the largest first: the page's list, as a record and as text."""

from collections import Counter

from rich.console import Group
from rich.text import Text

from planner.compress.parts import PART_NAMES, PARTS
from planner.compress.schema import Plan
from planner.errors import JobError
from planner.pictures.reading import LevelAt, alive, on_device, parts_on, peak_of
from planner.pictures.schema import DEVICE_NAMES, DeviceKey, Picture, StepPicture, WhatPicture
from planner.records import Record
from planner.reports.drawing import draw, listed
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import gib
from planner.reports.summary import place
from planner.units import human_bytes

TITLES = ("bytes", "whose, and what", "shape", "type", "part", "allocated in")
RIGHT = (True, False, False, False, False, False)
FIRST_TO_GO = ("type", "shape", "part")


class AliveRow(Record):
    """One holding at the peak; several equal ones of one owner and role are apart."""

    bytes: int
    name: str
    role: str
    copies: int
    part: str
    shape: tuple[int, ...] | None
    dtype: str | None
    line: str | None


class Explanation(Record):
    """What is alive at the highest moment of a step on one device. The rows and the rest sum to `bytes`."""

    model: str
    recipe: str
    step: int
    where: str
    device: DeviceKey
    bytes: int
    event: int
    """The moment, in events of the step on all devices."""
    events: int
    like: int | None
    """The equal step that was walked; None for itself."""
    rows: tuple[AliveRow, ...]
    rest: dict[str, int]
    """By part, what is not listed one by one."""


def explained(plan: Plan, picture: Picture, step: int | None, device: DeviceKey) -> Explanation:
    """The list of a step; None: the one that sets the device's peak. Raises JobError for a step that there is not."""
    whole = on_device(plan, device)
    number = step if step is not None else whole.peak_step if whole else 0
    if not 0 <= number < len(plan.steps):
        raise JobError(f"--step {number}: the job has the steps 0 to {len(plan.steps) - 1}")
    if device not in picture.devices:
        raise JobError(
            f"--device {device}: the job has no second GPU; --offload-device gpu:1 makes activations wait on one, and "
            "AutoRound's device_ids spread each layer over several"
        )
    found, shown = peak_of(picture, number, device), picture.steps[number]
    planned = on_device(plan.steps[number], device)
    if found is None or planned is None:
        raise JobError(f"--step {number}: of this step only the peak is known, which `planner plan` shows")
    rows, left = _listed(picture, shown, device, found)
    return Explanation(
        model=plan.model.name,
        recipe=plan.recipe,
        step=number,
        where=place(plan.steps[number]),
        device=device,
        bytes=planned.peak_bytes,
        event=found.tick,
        events=shown.ticks,
        like=shown.like,
        rows=tuple(sorted(rows, key=lambda row: -row.bytes)),
        rest={PARTS[part]: nbytes for part, nbytes in sorted(left.items()) if nbytes},
    )


def _listed(
    picture: Picture, shown: StepPicture, device: DeviceKey, peak: LevelAt
) -> tuple[list[AliveRow], dict[int, int]]:
    """The holdings that are shown one by one, and what is left of each part.

    What is larger or smaller in a copied step counts in the rest, unless a row takes it: once, the largest of several
    that are called alike.
    """
    place, parts = shown.devices[device], parts_on(picture, device)
    left, more = Counter(dict(enumerate(peak.parts))), Counter[tuple[str, str, int]]()
    for shift in place.shifts:
        left[parts[shift.what]] += shift.bytes
        more[_key(picture.whats[shift.what])] += shift.bytes
    rows = []
    for each in alive(picture.curves[place.curves], peak.tick, place.whats) if place.curves is not None else ():
        what = picture.whats[each.what]
        nbytes = each.bytes + more.pop(_key(what), 0)
        left[parts[each.what]] -= nbytes
        if nbytes:
            rows.append(_row(picture, what, nbytes, parts[each.what], shown.renames))
    return rows, left


def _key(what: WhatPicture) -> tuple[str, str, int]:
    return what.name, what.role, what.kind


def _row(picture: Picture, what: WhatPicture, nbytes: int, part: int, renames: tuple[tuple[str, str], ...]) -> AliveRow:
    return AliveRow(
        bytes=nbytes,
        name=_renamed(what.name, renames),
        role=what.role,
        copies=what.copies,
        part=PARTS[part],
        shape=what.shape,
        dtype=what.dtype,
        line=None if what.line is None else picture.lines[what.line],
    )


def _renamed(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    """As the copied step calls it."""
    for old, new in renames:
        if name == old or name.startswith((f"{old}.", f"{old} ")):
            return new + name[len(old) :]
    return name


# ---------------------------------------------------------------------- as text
def _title(found: Explanation) -> str:
    when = f", after event {found.event:,} of {found.events:,}" if found.events > 1 else ""
    return f"{gib(found.bytes)} of {DEVICE_NAMES[found.device]} memory at the peak of {found.where}{when}"


def _cells(found: Explanation) -> list[list[str]]:
    rows = [
        [
            human_bytes(row.bytes),
            f"{row.name}{f' and {row.copies - 1:,} more' if row.copies > 1 else ''} {row.role}".rstrip(),
            " x ".join(map(str, row.shape)) if row.shape else "",
            row.dtype or "",
            PART_NAMES[row.part],
            row.line or "",
        ]
        for row in found.rows
    ]
    rest = [[human_bytes(n), "not listed one by one", "", "", PART_NAMES[part], ""] for part, n in found.rest.items()]
    return rows + rest


def render(found: Explanation, *, width: int | None = None, color: bool = False) -> str:
    """A table for people, the largest first."""
    table = listed(TITLES, RIGHT, _cells(found), width, FIRST_TO_GO)
    head = Text(_title(found), style="bold")
    copied = (
        [Text(f"This step does what step {found.like} did, under its own names.")] if found.like is not None else []
    )
    note = Text("No function is named where none is noted. `planner report` shows every other moment.", style="dim")
    return draw(Group(head, *copied, Text(), table, Text(), note), width=width, color=color)


def render_markdown(found: Explanation) -> str:
    """The same as a markdown table."""
    body = [[escape(cell) for cell in cells] for cells in _cells(found)]
    return f"### {escape(found.model)}, {escape(found.recipe)}\n\n{escape(_title(found))}\n\n" + (
        markdown_table(TITLES, RIGHT, body) + "\n"
    )


FORMATS: Formats[Explanation] = {"table": render, "json": as_json, "markdown": everywhere(render_markdown)}
