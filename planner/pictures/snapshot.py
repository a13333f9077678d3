"""Steps of a plan as a snapshot of PyTorch's allocator, which pytorch.org/memory_viz opens.

The form is that of `torch.cuda.memory._snapshot()` (torch/csrc/cuda/Module.cpp `THCPModule_memorySnapshot`), read by
torch/cuda/_memory_viz.py and torch/utils/viz/MemoryViz.js, whose reader knows pickles up to protocol 4.

Tensors are laid out by the planner's own caching allocator. It begins with what the first of the steps finds, so its
segments are not those that the whole job has left behind by then: the plan's figures of reserved memory say these.
What is requested is the plan's, to the byte.
"""

import pickle
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from planner.compress.parts import PART_NAMES, PARTS, part_number
from planner.compress.schema import Plan, Step
from planner.cuda.allocator import OFFSETS, Block, CachingAllocator
from planner.errors import JobError
from planner.pictures.recording import Recorded, StepEvents
from planner.reports.summary import place
from planner.timeline import Handle
from planner.units import MIB
from planner.upstream_lines import line_of

BASE = 0x7F00_0000_0000
"""Where the first segment lies, as on a real card."""
OFFSET_IN = (1 << OFFSETS) - 1
PROTOCOL = 4
NEIGHBOURS = 1
"""Steps before and after the one that sets the peak."""

Entry = dict[str, Any]
Frames = list[Entry]


def steps_around(plan: Plan, step: int | None = None) -> tuple[int, ...]:
    """The steps that a snapshot shows: the one that sets the peak and its neighbours, or the step that was named.

    Raises JobError for one that the plan does not have.
    """
    if not plan.steps:
        raise JobError("--format memory-viz: this plan has no steps")
    if step is not None:
        if not 0 <= step < len(plan.steps):
            raise JobError(f"--step {step}: this job has steps 0 to {len(plan.steps) - 1}")
        return (step,)
    peak = plan.gpu.peak_step
    return tuple(range(max(0, peak - NEIGHBOURS), min(len(plan.steps), peak + NEIGHBOURS + 1)))


def snapshot(plan: Plan, steps: Sequence[StepEvents]) -> dict[str, Any]:
    """The snapshot of these steps of the plan: every tensor's birth and death, and what is left at the end."""
    card = _Card()
    for step in steps:
        card.begin(step, plan.steps[step.index])
    return {"segments": card.segments(), "device_traces": [card.trace], "allocator_settings": {}}


def pickled(content: dict[str, Any]) -> bytes:
    """The file."""
    return pickle.dumps(content, protocol=PROTOCOL)


class _Looks(NamedTuple):
    """How the tensors of a holding are shown."""

    kind: str
    frames: Frames
    category: str


@dataclass(slots=True)
class _Tensor:
    block: Block
    looks: _Looks


Pieces = deque[_Tensor]


@dataclass(slots=True)
class _Card:
    """Lays the steps' tensors out and notes what PyTorch would."""

    allocator: CachingAllocator = field(default_factory=CachingAllocator)
    trace: list[Entry] = field(default_factory=list)
    live: dict[Handle, Pieces] = field(default_factory=dict)
    bases: list[int] = field(default_factory=list)
    """Addresses of the segments, by their numbers, which begin with 1."""
    where: Frames = field(default_factory=list)
    """The running step, as a frame."""
    modifier: str | None = None
    """Whose step it is."""

    def __post_init__(self) -> None:
        # MemoryViz.js paints categories only where one of them is called unknown (annotate_snapshot).
        self.trace.append(_entry("snapshot", 0, 0, [], "unknown"))

    def begin(self, step: StepEvents, planned: Step) -> None:
        """Walk a step. What it finds is what the one before it left, wherever that is known."""
        self.where = [{"filename": f"step {step.index}", "name": place(planned), "line": step.index}]
        self.modifier = planned.modifier
        looks: dict[Handle, _Looks] = {}
        self._carry_over(step, _freed(step), looks)
        for handle, nbytes, tensors in step.events:
            for _ in range(tensors):
                self._take(handle, nbytes, self._what(step, handle, looks))
            for _ in range(-tensors):
                self._drop(handle, nbytes)

    def _carry_over(self, step: StepEvents, freed: dict[Handle, list[int]], looks: dict[Handle, _Looks]) -> None:
        """What is the same stays; the rest goes before what is new comes, so that no peak is made up."""
        wanted = {handle: _split(size, freed.get(handle, ())) for handle, size in step.opening.items()}
        left: dict[_Likeness, list[Pieces]] = {}
        for pieces in self.live.values():
            if pieces:
                left.setdefault(_likeness(pieces), []).append(pieces)
        self.live = {}
        new: list[tuple[Handle, list[int]]] = []
        for handle, sizes in wanted.items():
            about = step.about[handle]
            same = left.get((_owner_line(about), about.kind, tuple(sizes)))
            if same:
                self.live[handle] = same.pop()
            else:
                new.append((handle, sizes))
        for each in left.values():
            for pieces in each:
                for tensor in pieces:
                    self._free(tensor)
        for handle, sizes in new:
            for size in sizes:
                self._take(handle, size, self._what(step, handle, looks))

    def _what(self, step: StepEvents, handle: Handle, looks: dict[Handle, _Looks]) -> _Looks:
        if handle not in looks:
            about = step.about[handle]
            shape = f" {list(about.form.dims)} {about.form.dtype}" if about.form else ""
            first = {"filename": _owner_line(about), "name": f"{about.kind}{shape}", "line": 0}
            part = PART_NAMES[PARTS[part_number(about.kind, "gpu")]]
            looks[handle] = _Looks(about.kind, [first, *self._upstream(about), *self.where], part)
        return looks[handle]

    def _upstream(self, about: Recorded) -> Frames:
        """The function of the library that allocates it, where one is noted."""
        line = line_of(self.modifier, about.kind, about.owner.role)
        if line is None:
            return []
        filename, _, function = line.where.replace("`", "").partition(" ")
        return [{"filename": filename, "name": function, "line": 0}]

    def _take(self, handle: Handle, nbytes: int, looks: _Looks) -> None:
        before = len(self.allocator.segments)
        block = self.allocator.malloc(nbytes)
        for size in self.allocator.segments[before:]:
            self.bases.append(self.bases[-1] + self._room(len(self.bases)) if self.bases else BASE)
            self.trace.append(_entry("segment_alloc", self.bases[-1], size, looks.frames))
        self.live.setdefault(handle, deque()).append(_Tensor(block, looks))
        self.trace.append(_entry("alloc", self._address(block), nbytes, looks.frames, looks.category))

    def _room(self, number: int) -> int:
        """Bytes from the beginning of this segment to the next one's."""
        return -(-self.allocator.segments[number - 1] // (2 * MIB)) * 2 * MIB

    def _drop(self, handle: Handle, nbytes: int) -> None:
        """The oldest tensor of this holding goes; of tensors that are known by their sum alone, this much."""
        pieces = self.live[handle]
        while nbytes:
            tensor = pieces.popleft()
            self._free(tensor)
            size = tensor.block[0]
            if size > nbytes:
                self._take(handle, size - nbytes, tensor.looks)
                pieces.rotate(1)
            nbytes -= min(size, nbytes)

    def _free(self, tensor: _Tensor) -> None:
        _, frames, category = tensor.looks
        for action in ("free_requested", "free_completed"):
            self.trace.append(_entry(action, self._address(tensor.block), tensor.block[0], frames, category))
        self.allocator.free(tensor.block)

    def _address(self, block: Block) -> int:
        return self.bases[(block[1] >> OFFSETS) - 1] + (block[1] & OFFSET_IN)

    def segments(self) -> list[Entry]:
        """All segments with their blocks, as they are at the end."""
        by_segment: dict[int, list[_Tensor]] = {number: [] for number in range(1, len(self.bases) + 1)}
        for tensor in (tensor for pieces in self.live.values() for tensor in pieces):
            by_segment[tensor.block[1] >> OFFSETS].append(tensor)
        return [self._segment(number, tensors) for number, tensors in by_segment.items()]

    def _segment(self, number: int, tensors: list[_Tensor]) -> Entry:
        total, base = self.allocator.segments[number - 1], self.bases[number - 1]
        blocks, end = [], 0
        for tensor in sorted(tensors, key=lambda each: each.block[1]):
            requested, spot, size, _ = tensor.block
            offset = spot & OFFSET_IN
            if offset > end:
                blocks.append(_block(base + end, offset - end))
            blocks.append(_block(base + offset, size, requested, tensor.looks.frames))
            end = offset + size
        if end < total:
            blocks.append(_block(base + end, total - end))
        used = sum(tensor.block[2] for tensor in tensors)
        return {
            "device": 0,
            "address": base,
            "total_size": total,
            "allocated_size": used,
            "active_size": used,
            "requested_size": sum(tensor.block[0] for tensor in tensors),
            "stream": 0,
            "segment_type": "small" if total == 2 * MIB else "large",
            "segment_pool_id": (0, 0),
            "is_expandable": False,
            "frames": [],
            "blocks": blocks,
        }


def _block(address: int, size: int, requested: int | None = None, frames: Frames | None = None) -> Entry:
    return {
        "address": address,
        "size": size,
        "requested_size": requested or 0,
        "state": "inactive" if requested is None else "active_allocated",
        "frames": frames or [],
    }


def _entry(action: str, address: int, size: int, frames: Frames, category: str | None = None) -> Entry:
    entry: Entry = {"action": action, "addr": address, "size": size, "stream": 0, "frames": frames}
    return entry if category is None else {**entry, "category": category}


def _owner_line(about: Recorded) -> str:
    return str(about.owner)


_Likeness = tuple[str, str, tuple[int, ...]]
"""Whose it is, of what kind, and the sizes of its tensors."""


def _likeness(pieces: Pieces) -> _Likeness:
    looks = pieces[0].looks
    return looks.frames[0]["filename"], looks.kind, tuple(tensor.block[0] for tensor in pieces)


def _freed(step: StepEvents) -> dict[Handle, list[int]]:
    """The sizes of the tensors of each holding that die, in order."""
    found: dict[Handle, list[int]] = {}
    for handle, nbytes, tensors in step.events:
        if tensors < 0 and handle in step.opening:
            found.setdefault(handle, []).extend([nbytes] * -tensors)
    return found


def _split(total: int, freed: Iterable[int]) -> list[int]:
    """The tensors of a holding of so many bytes, as far as their deaths tell them apart."""
    sizes = []
    for nbytes in freed:
        if nbytes > total:
            break
        sizes.append(nbytes)
        total -= nbytes
    return [*sizes, total] if total else sizes
