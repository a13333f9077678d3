"""The record of a picture: all that a chart of one plan needs beside the plan.

Equal steps share one set of curves. Curves are thinned, but never at a peak: the highest moment of a step in the
picture is the plan's figure, to the byte.
"""

from typing import Literal, NamedTuple

from pydantic import Field

from planner.compress.parts import PARTS
from planner.compress.schema import Plan
from planner.recipe.changes import Changes
from planner.records import Record

DeviceKey = Literal["gpu", "gpu1", "cpu"]
"""`gpu1` is the card on which activations wait, or the fullest of the others that layers are spread over."""

DEVICE_NAMES: dict[DeviceKey, str] = {"gpu": "GPU", "gpu1": "second GPU", "cpu": "CPU"}
"""The devices in words."""

Stairs = tuple[int, ...]
"""ticks, bytes, ticks, bytes, ...: so many ticks after the change before (the first: after the beginning) it becomes so
many bytes. Before the first it is none. What repeats itself is written alike so, and packs well."""


class WhatPicture(Record):
    """What holds bytes: a tensor, or tensors that are counted together."""

    name: str = Field(description="the module that the bytes are of, or what else they are")
    role: str = Field(default="", description="what they are to it, e.g. Hessian")
    copies: int = Field(default=1, description="how many equal modules the name stands for")
    kind: int = Field(description="place in the picture's kinds")
    shape: tuple[int, ...] | None = Field(default=None, description="null where it is not known")
    dtype: str | None = Field(default=None, description="null where it is not known")
    line: int | None = Field(default=None, description="place in the picture's lines; null where none is noted")


class StepCurves(Record):
    """One device in one step that was walked: tick by tick, from 0, what it finds, to the last, what it leaves.

    What is requested at a tick is what the holdings have then, and the rest by parts. Of each holding the three lists
    have one entry, in the order of their births; numbers are differences from the entry before.
    """

    whats: tuple[int, ...] = Field(description="what it is: place in the picture's whats")
    begins: tuple[int, ...] = Field(description="the tick of its birth")
    changes: tuple[Stairs, ...] = Field(description="its bytes from its birth on; 0 bytes: it is gone")
    smaller: int = Field(
        default=0, description="holdings that are not among these: small ones, and some that are soon gone"
    )
    rest: tuple[Stairs, ...] = Field(default=(), description="bytes of these, by the picture's parts")
    moments: tuple[int, ...] = Field(
        default=(),
        description="ticks (each from the one before) at which the sum is exact, the highest among them; empty: at all",
    )
    slack: Stairs = Field(default=(), description="what the allocator's blocks have beyond the tensors in them")
    reserved: Stairs = Field(default=(), description="its segments; empty where it was not simulated")


class Shifted(Record):
    """What differs in a copied step."""

    what: int = Field(description="place in the picture's whats: its name, role and kind")
    bytes: int


class OnDevice(Record):
    """One device in one step."""

    curves: int | None = Field(description="place in the picture's curves; null where only peak and end are known")
    whats: tuple[int, ...] | None = Field(
        default=None,
        description="what the holdings are, where the curves were drawn of another step's equal events",
    )
    shifts: tuple[Shifted, ...] = Field(
        default=(), description="holdings that are larger than in the curves, or smaller"
    )
    own_card: bool = Field(
        default=True, description="false: the allocator's peaks are not those of the curves, which were drawn elsewhere"
    )


class StepPicture(Record):
    """One step of the plan."""

    ticks: int = Field(description="length on the time axis: events on all devices")
    like: int | None = Field(default=None, description="index of the equal step that was walked; null for itself")
    renames: tuple[tuple[str, str], ...] = Field(default=(), description="modules there, and what they are called here")
    milestones: tuple[tuple[int, str], ...] = Field(default=(), description="(tick, what begins)")
    devices: dict[DeviceKey, OnDevice]


class KindPicture(Record):
    """A kind of memory, as the simulation names it, and the part that reports show it in."""

    kind: str
    gpu_part: int
    cpu_part: int


class Capacity(Record):
    """A line over a chart: what there is of a device."""

    device: DeviceKey
    label: str
    bytes: int


class Picture(Record):
    """What a chart of one plan needs beside the plan."""

    schema_version: Literal[1] = 1
    parts: tuple[str, ...] = PARTS
    devices: tuple[DeviceKey, ...]
    capacities: tuple[Capacity, ...] = ()
    kinds: tuple[KindPicture, ...] = ()
    whats: tuple[WhatPicture, ...] = ()
    lines: tuple[str, ...] = Field(default=(), description="`file.py function` of the library that allocates")
    curves: tuple[StepCurves, ...] = ()
    steps: tuple[StepPicture, ...]
    notes: tuple[str, ...] = Field(default=(), description="what the picture leaves out")


class Pictured(NamedTuple):
    """A plan and its picture."""

    plan: Plan
    picture: Picture | None
    model: str | None = None
    """The model as somebody typed it, for what is to be pasted; None: as the plan has it."""
    changes: Changes | None = None
    """Fields of the recipe's modifiers that are not the recipe's."""
