"""Who holds how much: the records that the books are read as."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from planner.compress.devices import CardUse
from planner.timeline import Handle, MemoryEvent

DeviceName = Literal["gpu", "cpu", "gpu1"]
"""`gpu1` is a second card, for activations that wait."""


class Owner(NamedTuple):
    """Who holds bytes: `model.layers.0.mlp.down_proj` and 3 more, and in which role: `Hessian`.

    A named tuple, as a job makes one for each tensor's role in each module.
    """

    name: str
    role: str = ""
    copies: int = 1
    """How many equal ones this name stands for."""

    def __str__(self) -> str:
        others = f" and {self.copies - 1} more" if self.copies > 1 else ""
        return f"{self.name}{others} {self.role}".rstrip()

    def part(self, role: str) -> "Owner":
        """The same owner in a narrower role: its Hessian, its input in fp32."""
        return Owner(self.name, f"{self.role} {role}" if self.role else role, self.copies)

    def renamed(self, names: Mapping[str, str]) -> "Owner":
        """The same owner in another module: `names` maps old to new module names, also for what lies inside them."""
        for old, new in names.items():
            if self.name == old or self.name.startswith((f"{old}.", f"{old} ")):
                return self._replace(name=new + self.name[len(old) :])
        return self


class About(NamedTuple):
    """Where a holding lies, what it is for, and whose it is."""

    device: DeviceName
    kind: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment between two events of a step."""

    since: Handle
    """Holdings from this number on are younger."""
    events: Mapping[DeviceName, int]
    """How many events each device had in this step."""


class Shift(NamedTuple):
    """By how much a holding of a copied step differs from what it was in the step that was walked."""

    device: DeviceName
    kind: str
    owner: Owner
    bytes: int
    allocated: int
    """The same in blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a watcher made of a step (watching.py), and what is otherwise in a copy of that step."""

    picture: Any
    renames: Mapping[str, str]
    """Names of modules there, and in the copy."""
    shifts: tuple[Shift, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """What one owner holds, summed over its tensors."""

    owner: Owner
    kind: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """One device in one step. `by_kind` sums to `bytes`."""

    bytes: int
    allocated: int
    """Highest in 512-byte blocks; it may occur at another moment than `bytes`."""
    end: int
    by_kind: dict[str, int]
    largest: tuple[Holding, ...]
    held: CardUse | None = None
    """What the caching allocator held, where one was simulated."""
    seen: Sight | None = None
    """None where nobody watched."""

    def where(self, held: CardUse | None) -> "Peak":
        """The same tensors where the allocator held this; None: where it is not known."""
        return self if held is None else replace(self, held=held, allocated=held.allocated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """One device's whole job: every event in order, and where its steps end."""

    events: tuple[MemoryEvent, ...]
    ends: tuple[int, ...]
    """For each closed step, the number of events up to its end."""
    about: Mapping[Handle, About]
    """Device, kind and owner of every holding, by its handle."""

    def step(self, index: int) -> tuple[MemoryEvent, ...]:
        """The events of one step."""
        return self.events[self.ends[index - 1] if index else 0 : self.ends[index]]
