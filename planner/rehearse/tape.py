"""A rehearsal's requests, played on a card of another size (planner/cuda/allocator.py).

Batches that repeat are played until one leaves all blocks where one of the last few left them: from there on everything
comes again, and is passed over. Cards of different sizes do the same up to where the memory of one does not suffice:
what is known of one play is where the next one begins.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.compress.fit import FINE
from planner.cuda.allocator import Band, Block, CachingAllocator, Layout, OutOfMemory
from planner.cuda.allocators import allocator
from planner.cuda.settings import DEFAULT, AllocatorSettings
from planner.rehearse.actions import Action, TapePart, tape_parts
from planner.rehearse.layouts import recorded_layouts
from planner.rehearse.trace import MARK, Trace
from planner.units import MIB

CYCLE = 64
"""Layouts that are remembered: two blocks that change places lie as before after two batches, others after 24."""
NEAR = 8
"""Of the sizes between one that fails and one that does not, an eighth from the former is tried."""
MOMENTS = 32
"""So many of a play are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The tape on one card."""

    reserved: tuple[int, ...]
    """The most in each step, as far as it came."""
    retries: int
    ran_out: tuple[int, int] | None
    """What was asked for and what was free, where the memory did not do."""
    band: Band | None
    """Cards of which all is equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """A card between two parts of the tape, as all cards of its band have it there."""

    parts: int
    """How many were played."""
    layout: Layout
    numbers: tuple[int, ...]
    """Of the tensors, in their order there."""
    reserved: tuple[int, ...]
    retries: int
    band: Band


class RecordedTape:
    """What one card was asked for, in order."""

    def __init__(self, trace: Trace, device: int = 0) -> None:
        self.parts = tape_parts(trace, device)
        self.steps = int(np.count_nonzero(trace.records["action"] == MARK))
        self._recorded = _moments(trace, device, self.parts)
        self._moments: list[_Moment] = []
        self._settings: AllocatorSettings | None = None
        """Of the cards that moments are of."""

    def play(self, total: int | None, context: int, settings: AllocatorSettings) -> Replay:
        """Ask the same of a card of `total` bytes, of which the CUDA context has `context`; None: there is room."""
        card = allocator(total, context, settings)
        player, ran_out = _Player(card), None
        if settings != self._settings:
            # the rehearsal's own card had other settings where these are not the defaults
            self._moments, self._settings = list(self._recorded) if settings == DEFAULT else [], settings
        usable = None if total is None else total - context
        before = [each for each in self._moments if usable is not None and each.band.covers(usable)]
        begin = player.stand_at(max(before, key=lambda each: each.parts)) if before else 0
        last = begin
        try:
            for number, part in enumerate(self.parts[begin:], begin + 1):
                player.play(part)
                if usable is not None and number - last >= len(self.parts) / MOMENTS and number < len(self.parts):
                    self._moments += player.moment(number)
                    last = number
        except OutOfMemory as error:
            ran_out = error.asked, error.free
        return Replay(reserved=tuple(player.reserved), retries=card.use.retries, ran_out=ran_out, band=card.band)

    def smallest(
        self, start: int, least: int, context: int, settings: AllocatorSettings, *, is_known: bool = False
    ) -> int:
        """The smallest card on which the job gets through, of those that are tried: bytes in whole MiB.

        `start`: one on which it does, as far as known; where that `is_known`, nobody tries. No card of `least` bytes
        does. A card that is too small fails early, and one that is large enough plays the whole tape: so sizes near
        the failing one are tried first, as long as failing stays cheap.
        """
        seen: list[Replay] = []

        def played(total: int) -> Replay:
            known = next((each for each in seen if each.band and each.band.covers(total - context)), None)
            if known is None:
                known = self.play(total, context, settings)
                seen.append(known)
            return known

        passes, fails, share = start, least, NEAR
        while not is_known and played(passes).ran_out is not None:
            fails, passes = passes, passes + max(passes // 8, MIB)
        while passes - fails > max(4 * MIB, passes // FINE):
            middle = fails + (passes - fails) // share
            found = played(middle)
            if found.ran_out is None:
                passes = middle
            else:
                fails = middle
                share = 2 if len(found.reserved) > self.steps // 4 else share
        return -(-passes // MIB) * MIB


def _moments(trace: Trace, device: int, parts: Sequence[TapePart]) -> tuple[_Moment, ...]:
    """Ends of steps whose layouts the rehearsal wrote down."""
    ends = [number for number, part in enumerate(parts, 1) if part.ends_step]
    return tuple(
        _Moment(
            parts=ends[each.step],
            layout=each.layout,
            numbers=each.numbers,
            reserved=(*each.reserved, each.reserved[-1]),
            retries=0,
            band=Band(least=each.reserved[-1]),
        )
        for each in recorded_layouts(trace, device)
    )


class _Player:
    """A card, and where on it each tensor lies."""

    def __init__(self, card: CachingAllocator) -> None:
        self.card = card
        self.blocks: dict[int, Block] = {}
        self.reserved: list[int] = []

    def moment(self, parts: int) -> list[_Moment]:
        """Now, if cards of which size have it alike is all known; `parts`: how many were played."""
        card = self.card
        if card.band is None or card.ages or card.band.told_otherwise:
            return []
        return [
            _Moment(
                parts=parts,
                layout=card.layout([self.blocks.values()]),
                numbers=tuple(self.blocks),
                reserved=(*self.reserved, card.use.reserved_peak),
                retries=card.use.retries,
                band=replace(card.band),
            )
        ]

    def stand_at(self, moment: _Moment) -> int:
        """Go on from there; how many parts were played."""
        (blocks,) = self.card.rebuild(moment.layout)
        self.blocks = dict(zip(moment.numbers, blocks, strict=True))
        *self.reserved, self.card.use.reserved_peak = moment.reserved
        self.card.use.retries, self.card.band = moment.retries, replace(moment.band)
        return moment.parts

    def play(self, part: TapePart) -> None:
        """Do all actions, as often as they are done; what would lead to where the blocks lay before is passed over."""
        seen: deque[tuple[Layout, int]] = deque(maxlen=CYCLE)
        time, segments = 0, self.card.segments
        while time < part.times:
            before = len(segments)
            self._do(part.actions, time * part.taken)
            time += 1
            if part.is_closed and len(segments) == before and not self.card.ages:
                return  # what was free is free again
            if time < part.times:
                time += self._passed_over(part, part.times - time, seen)
        if part.unwritten:
            self._rename(part.first, -part.unwritten * part.taken)

    def _passed_over(self, part: TapePart, left: int, seen: "deque[tuple[Layout, int]]") -> int:
        """Of so many times that are left, how many need not be done: whole rounds from this layout to itself."""
        now, retries = self.card.layout([self.blocks.values()]), self.card.use.retries
        found = next((ago for ago, (layout, _) in enumerate(reversed(seen), 1) if layout == now), None)
        rounds = left // found if found else 0
        if found and rounds:
            self.card.use.retries += rounds * (retries - seen[-found][1])
            self._rename(part.first, rounds * found * part.taken)
        seen.append((now, retries))
        return rounds * (found or 0)

    def _do(self, actions: Sequence[Action], shift: int) -> None:
        card, blocks = self.card, self.blocks
        for number, nbytes, stream in actions:
            if number < 0:
                self.reserved.append(card.use.reserved_peak)
                card.use.restart()
            elif nbytes < 0:
                card.free(blocks.pop(number + shift))
            else:
                blocks[number + shift] = card.malloc(nbytes, stream)

    def _rename(self, first: int, shift: int) -> None:
        """What lies where a tensor of a later batch would: it is that one from now on."""
        self.blocks = {number + shift * (number >= first): block for number, block in self.blocks.items()}
