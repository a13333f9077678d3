"""Whether a job gets through on a card, and on which smallest one it would.

A job is simulated once, on a card where there is always room. Its tape then tells what happens on smaller ones
(tape.py), until the job is told that less is free and acts on it: GPTQ makes its batches smaller. Then it is simulated
anew on that card.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace

from planner.compress.context import PLACED, PLACED_IN_PART, Context, Shortcuts
from planner.compress.devices import CachingDevice, CardUse, DiffersError, card
from planner.compress.ledger import Ledger
from planner.compress.oneshot import simulate
from planner.compress.program import Outcome, Program, StepMemory
from planner.compress.ranks import Rank
from planner.compress.tape import play
from planner.cuda.allocator import Band, OutOfMemory
from planner.cuda.build import CudaBuild
from planner.cuda.notes import note_on_unruled, notes_on_settings
from planner.job import Job
from planner.notes import Note
from planner.units import MIB

MANY_MODULES = 1_000
"""From so many targeted modules on, repetitions are taken as settled early, and column blocks are not all walked."""

HALVINGS = 3
"""How often the way to a card that has room is halved at once: far down, trying one costs little."""
FINE, COARSE = 200, 50
"""The smallest card is looked for to a two hundredth of its size; to a fiftieth where a large job asks what is free, so
that nearly each card means a simulation."""


SETTLED = (
    f"This job has more than {MANY_MODULES:,} modules to compress: what the caching allocator reserves is taken as "
    "settled after three equal batches and three equal layers that took no new segment."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RanOut:
    """torch.OutOfMemoryError in one step."""

    step: int
    """Its number."""
    asked: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The job on one card."""

    steps: tuple[StepMemory, ...]
    """As far as it came."""
    ran_out: RanOut | None = None

    @property
    def retries(self) -> int:
        """How often segments were given back because the driver had no more."""
        return sum(step.gpu.held.retries for step in self.steps if step.gpu.held)

    @property
    def reserved(self) -> int:
        """Bytes of segments, at most."""
        return max((step.gpu.held.reserved for step in self.steps if step.gpu.held), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondCard:
    """The card on which activations wait, or the fullest of the others that layers are spread over."""

    helds: tuple[CardUse, ...]
    """What its allocator held in each step, as far as the job came."""
    ran_out: RanOut | None = None

    @property
    def reserved(self) -> int:
        """Bytes of segments, at most."""
        return max((held.reserved for held in self.helds), default=0)

    @property
    def retries(self) -> int:
        """How often segments were given back because the driver had no more."""
        return sum(held.retries for held in self.helds)


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a card, and on which others all goes alike."""

    band: Band
    total: int
    attempt: Attempt


class Rehearsal:
    """One job on one card after another.

    `context_bytes` are those of the job, and the number of modules chooses `shortcuts`, if none are given.
    """

    def __init__(
        self,
        program: Program,
        job: Job,
        *,
        context_bytes: int | None = None,
        shortcuts: Shortcuts | None = None,
        rank: Rank | None = None,
    ) -> None:
        self.program, self.job, self.rank = program, job, rank
        self.context_bytes = job.cuda_context_bytes if context_bytes is None else context_bytes
        self.settings = job.allocator_settings
        modules = sum(len(unit.modules) for run in program.runs for unit in run.units)
        self._is_large = modules > MANY_MODULES
        self._shortcuts = shortcuts or (PLACED_IN_PART if self._is_large else PLACED)
        self._seen: list[Seen] = []
        self._told: Band | None = None
        """The cards of which the job would be told what it was told; None where that hangs on more than their size."""
        self._ledger, self._roomy = self._simulated(job.gpu_memory_bytes, self._shortcuts, is_strict=False)
        self._asks = any(step.gpu.held.asked for step in self._roomy.steps if step.gpu.held)
        self._adapted: tuple[int, Ledger, Attempt] | None = None
        """The smallest card on which the job did otherwise and got through, and its simulation."""

    @property
    def roomy(self) -> Attempt:
        """The job on a card that tells how much of the job's is free, and has room for all."""
        return self._roomy

    def on_card_of(self, job: Job) -> "Rehearsal | None":
        """The rehearsal of this job, which differs in its card's size alone; None where it must be simulated for that,
        as it is told otherwise there."""
        if self.program.second_gpu or not self._is_told_the_same(job.gpu_memory_bytes):
            return None
        other = copy(self)
        other.job, other._adapted = job, None
        other._seen = [seen for seen in self._seen if seen.attempt is self._roomy]
        return other

    @property
    def told(self) -> tuple[int, int | None] | None:
        """Which cards tell the job, with room for all of it, what it was told: equal for rehearsals that were taken
        from one card to another. None where this one cannot be taken anywhere."""
        if self._told is None or self.program.second_gpu or not self._is_told_the_same(self.job.gpu_memory_bytes):
            return None
        return self._told.least, self._told.below

    def _is_told_the_same(self, total: int) -> bool:
        """On a card of so many bytes, with room for all, the job is told what it was told."""
        return self._told is not None and self._told.covers(total - self.context_bytes)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What a reader must know of the allocator's figures."""
        notes = (*notes_on_settings(self.settings), *note_on_unruled(self.program.unruled))
        return (*notes, Note(kind="estimate", text=SETTLED)) if self._is_large else notes

    @property
    def least(self) -> int:
        """No smaller card gets through: steps in which the job asks nothing of the card are the same on every one."""
        alike = [step.gpu.bytes for step in self._roomy.steps if step.gpu.held and not step.gpu.held.asked]
        return max(alike, default=0) + self.context_bytes

    def on(self, total: int) -> Attempt:
        """The job on a card of so many bytes."""
        is_own = total == self.job.gpu_memory_bytes and self.settings.memory_fraction is None
        is_told_the_same = is_own or not (self._asks or self.settings.is_limited)
        if not self._roomy.reserved or (is_told_the_same and self._needed() <= total):
            return self._roomy
        if not is_own and (seen := self._seen_like(total)):
            return seen
        known = [(self._ledger, self._roomy)]
        if self._adapted and not is_own and self._may_serve(self._adapted[2], total):
            known.append(self._adapted[1:])
        for ledger, attempt in known:
            if (tried := self._again(total, ledger, attempt)) is not None:
                return tried
        ledger, attempt = self._simulated(total, self._shortcuts if is_own else PLACED_IN_PART, is_strict=True)
        if attempt.ran_out is None and not is_own and not (self._adapted and self._adapted[0] < total):
            self._adapted = total, ledger, attempt
        return attempt

    def exactly_on(self, total: int) -> Attempt:
        """`on`, with no shorter walk than on the job's own card: what a plan of the job on this card says."""
        roomy = self._seen[0] if self._seen and self._seen[0].attempt is self._roomy else None
        if not self._roomy.reserved or (roomy is not None and roomy.band.covers(total - self.context_bytes)):
            return self._roomy
        return self._again(total, self._ledger, self._roomy) or self._own(total).on(total)

    def _own(self, total: int) -> "Rehearsal":
        """The job whose own card has so many bytes, as a plan rehearses it."""
        job = self.job.model_copy(update={"gpu_memory_bytes": total})
        return Rehearsal(self.program, job, context_bytes=self.context_bytes, shortcuts=self._shortcuts, rank=self.rank)

    def _may_serve(self, attempt: Attempt, total: int) -> bool:
        """False where a card of so many bytes is too large for what was answered on the attempt's."""
        seen = next((each for each in self._seen if each.attempt is attempt), None)
        return seen is None or seen.band.below is None or total - self.context_bytes < seen.band.below

    def _again(self, total: int, ledger: Ledger, attempt: Attempt) -> Attempt | None:
        """What was simulated for another card, on one of so many bytes; None where the job does otherwise there."""
        seen = next((each for each in self._seen if each.attempt is attempt), None)
        if seen is not None and seen.band.is_told_otherwise(total - self.context_bytes):
            return None
        device = card(total, self.context_bytes, self.settings, is_strict=True)
        try:
            played = play(ledger.tape("gpu"), device, self._shortcuts.settled)
        except DiffersError:
            return None
        pairs = zip(attempt.steps, played.helds, strict=False)  # as many as it came through
        steps = tuple(replace(step, gpu=step.gpu.where(held)) for step, held in pairs)
        error, step = played.out_of_memory, played.out_at
        ran_out = RanOut(step=step, asked=error.asked, free=error.free) if error and step is not None else None
        tried = Attempt(steps=steps, ran_out=ran_out)
        self._note(total, device, tried)
        return tried

    def _note(self, total: int, device: CachingDevice, attempt: Attempt) -> None:
        if device.allocator.band is not None:
            self._seen.append(Seen(device.allocator.band, total, attempt))

    def _seen_like(self, total: int) -> Attempt | None:
        """What came of a card on which all went as it would go on one of so many bytes."""
        room = total - self.context_bytes
        seen = next((each for each in self._seen if each.band.covers(room)), None)
        if seen is None or seen.attempt.ran_out is None:
            return seen.attempt if seen else None
        error = seen.attempt.ran_out
        return replace(seen.attempt, ran_out=replace(error, free=error.free + total - seen.total))

    def second_on(self, total: int) -> SecondCard | None:
        """The second card, if the job has one, with so many bytes."""
        if not self.program.second_gpu:
            return None
        played = play(self._ledger.tape("gpu1"), card(total, self.context_bytes, self.settings, is_strict=True))
        error, step = played.out_of_memory, played.out_at
        ran_out = RanOut(step=step, asked=error.asked, free=error.free) if error and step is not None else None
        return SecondCard(helds=tuple(played.helds), ran_out=ran_out)

    def smallest_second(self) -> int | None:
        """The smallest second card, in whole MiB; None for a job without one."""
        own = self.second_on(self.job.gpu_memory_bytes)
        if own is None:
            return None

        def gets_through(total: int) -> bool:
            found = self.second_on(total)
            return found is not None and found.ran_out is None

        return -(-smallest_card(gets_through, own.reserved + self.context_bytes, FINE) // MIB) * MIB

    def smallest(self) -> int:
        """`smallest_card` of this job: whole MiB, the same whatever card it was simulated for or asked about before.

        The program stays the job's: where it adapts to the size of the GPUs (ModifierSpec.adapts_to_card), this is the
        smallest card for what the job does on its own, and on a smaller one it may do otherwise.
        """
        search = self._afresh()
        found = smallest_card(
            lambda total: search.on(total).ran_out is None,
            start=search._needed(),
            resolution=COARSE if self._asks and self._is_large else FINE,
            least=self.least,
        )
        return -(-found // MIB) * MIB

    def _afresh(self) -> "Rehearsal":
        """Where to look for the smallest card: for a job that adapts, the usual card, of which nothing was asked yet.

        It may get through on a size and not on a larger one, and near the limit by one walk and not by another, so that
        where a search begins, and what is known by then, decide where it ends.
        """
        if not self._asks:
            return self
        usual = Job.model_fields["gpu_memory_bytes"].default
        return self.on_card_of(self.job.model_copy(update={"gpu_memory_bytes": usual})) or self._own(usual)

    def _needed(self) -> int:
        """Bytes of a card on which the allocator never runs into the end of it."""
        return self._roomy.reserved + self.context_bytes

    def _simulated(self, total: int, shortcuts: Shortcuts, *, is_strict: bool) -> tuple[Ledger, Attempt]:
        gpu = card(total, self.context_bytes, self.settings, is_strict=is_strict)
        second = card(total, self.context_bytes, self.settings) if self.program.second_gpu else None
        ledger = Ledger(gpu=gpu, second=second)
        build = CudaBuild(sm=self.job.capability)
        outcome, ran_out = Outcome(), None
        try:
            context = Context(self.job, ledger, shortcuts=shortcuts, cuda=build, rank=self.rank)
            simulate(self.program, context, outcome)
        except OutOfMemory as error:
            ran_out = RanOut(step=len(outcome.steps) + error.steps, asked=error.asked, free=error.free)
        attempt = Attempt(steps=tuple(outcome.steps), ran_out=ran_out)
        band = gpu.allocator.band
        if not is_strict and band is not None:  # it was never in want: all that it took must be there
            if not self._seen and not self.settings.is_limited:
                self._told = Band(band.least, band.below)
            band.needs(attempt.reserved)
        if is_strict or not self.settings.is_limited:
            self._note(total, gpu, attempt)
        return ledger, attempt


def smallest_card(gets_through: Callable[[int], bool], start: int, resolution: int, least: int = 0) -> int:
    """The smallest of the tried sizes that gets through, and all larger ones that were tried.

    No card of `least` bytes does. First an eighth, a quarter and half of the way to `start` are tried, then `start`,
    until two in a row are large enough: where the job runs out, it does so early. From `start` upwards in steps of an
    eighth until a card is large enough; then, where nothing is known from below, downwards until one is not; then by
    halves between these two, to one part in `resolution`. A job that adapts to the card may get through on a smaller
    one again, or run out on a larger one that was not tried.
    """
    fails, passes = least, 0
    for size in reversed(_halves(start, resolution, least)):
        if not gets_through(size):
            fails, passes = size, 0
        elif passes:
            break
        else:
            passes = size
    if not passes:
        passes = start + max(start // 8, MIB)
        while not gets_through(passes):
            fails, passes = passes, passes + max(passes // 8, MIB)
    while not fails and passes > MIB:
        smaller = passes - max(passes // 8, MIB)
        if gets_through(smaller):
            passes = smaller
        else:
            fails = smaller
    while passes - fails > _settled(passes, resolution):
        middle = (passes + fails) // 2
        if gets_through(middle):
            passes = middle
        else:
            fails = middle
    return passes


def _halves(start: int, resolution: int, least: int) -> list[int]:
    """`start`, and what halving the way from `least` to it comes to, three times at most."""
    sizes = [start]
    while least and len(sizes) <= HALVINGS and sizes[-1] - least > _settled(sizes[-1], resolution):
        sizes.append((least + sizes[-1]) // 2)
    return sizes


def _settled(passes: int, resolution: int) -> int:
    """The smallest card is known, where one that is smaller by no more than this is too small."""
    return max(4 * MIB, passes // resolution)
