"""One pass of all batches through one subgraph, with the names that Python keeps between batches.

The loop body of pipelines/sequential/pipeline.py has three names that outlive a batch, and a subgraph: `inputs`
(what was fetched from the activation cache), `outputs` (of the calibration pass) and `output` (of the propagation
pass). Their tensors are freed when the name is bound anew, so a batch runs beside what the batch before left behind.

All batches are equal except the last, which may be shorter. As soon as a batch leaves everything as an earlier one did,
and moved the growing holdings (the activation cache, whatever a modifier keeps for each sample) as that one did, the
batches since then would be repeated again and again. They are passed over up to the last two, and the growing holdings
change by what each round of them changed.

A progress bar keeps one batch more while every second batch runs. `_get_batches` loops over tqdm(enumerate(batches)),
and CPython's enumerate (Objects/enumobject.c enum_next) hands out the same tuple again and again, as long as nobody
else refers to it. Without a bar nobody does: tqdm.__iter__ is a `yield from`. With one, its loop variable `obj` holds
the tuple while the next is asked for. So batch 1 gets a new tuple, and enumerate's own holds batch 0 until batch 2
is put into it; that one then stays beside batch 3, and so on. When the loop ends, enumerate goes.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from planner.compress.cache import ActivationCache
from planner.compress.context import Context, Frame
from planner.compress.forward import Hooked, SubgraphForward
from planner.compress.program import Subgraph
from planner.job import Job
from planner.timeline import Handle

NAMES = ("inputs", "outputs", "output")
ENUMERATED = "enumerate"
"""What the tuple in enumerate still refers to, beside `inputs`."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The calibration batches by number."""

    job: Job

    @property
    def count(self) -> int:
        return self.job.batches

    def is_last(self, number: int) -> bool:
        return number == self.count - 1

    def share(self, number: int) -> tuple[int, int]:
        """(samples, batch size): the part of a whole batch that this one is."""
        if self.is_last(number) and self.count > 1:
            return self.job.last_batch_size, self.job.batch_size
        return 1, 1


Moves = dict[tuple[Handle, int], int]
"""By how many tensors each growing holding changed, by holding and size of the tensor."""


def walk_batches(context: Context, count: int, batch: Callable[[int], None]) -> None:
    """Call `batch` with the numbers 0 to count - 1, but for those that would do what batches before them did.

    A batch that leaves all as an earlier one did is the end of a round, and further rounds would be equal. As many as
    fit before the last two batches are passed over; what grew in one grows on by their number.
    """
    ledger, rounds = context.ledger, Rounds()
    number = 0
    while number < count:
        growth = ledger.growth()
        batch(number)
        number += 1
        if not context.shortcuts.batches:
            continue
        length, moves = rounds.add(ledger.state(), _moves(growth, ledger.growth()))
        times = (count - 2 - number) // length if length else 0
        if times > 0:
            for (handle, size), change in sorted(moves.items(), key=lambda move: move[1]):  # first what goes
                ledger.grow(handle, size * change * times, abs(change) * times)
            number += length * times
            rounds = Rounds()


@dataclass(slots=True)
class Rounds:
    """Batches so far: the state that each one left, and by what it moved the growing holdings."""

    seen: dict[Hashable, int] = field(default_factory=dict)
    moved: list[Moves] = field(default_factory=list)

    def add(self, state: Hashable, moves: Moves) -> tuple[int, Moves]:
        """The number of batches since the last one that left the same, and what they moved; 0 if there is none."""
        self.moved.append(moves)
        key, number = (state, frozenset(moves.items())), len(self.moved)
        earlier = self.seen.get(key)
        self.seen[key] = number
        if earlier is None:
            return 0, {}
        total: Moves = {}
        for each in self.moved[earlier:]:
            for move, change in each.items():
                total[move] = total.get(move, 0) + change
        return number - earlier, total


def _moves(before: dict[Handle, dict[int, int]], after: dict[Handle, dict[int, int]]) -> Moves:
    """What the growing holdings that are there now have gained and lost."""
    changes = {
        (handle, size): sizes.get(size, 0) - before.get(handle, {}).get(size, 0)
        for handle, sizes in after.items()
        for size in {**before.get(handle, {}), **sizes}
    }
    return {move: change for move, change in changes.items() if change}


@dataclass(slots=True)
class Pass:
    """All batches once. `result` is the name that the outputs are bound to; `store` puts them into the cache."""

    context: Context
    forward: SubgraphForward
    cache: ActivationCache
    names: Frame
    subgraph: Subgraph
    result: str
    hooked: tuple[Hooked, ...]
    store: bool
    ahead: list[Handle] | None = None
    """The next batch, where it was fetched while the one before ran (iter_prefetch)."""

    def run(self) -> None:
        """Walk the batches in order, passing over those that would only repeat the one before."""
        batches = Batches(self.context.job)
        walk_batches(self.context, batches.count, lambda number: self._batch(number, batches))
        self.names.delete(ENUMERATED)

    def _batch(self, number: int, batches: Batches) -> None:
        last = batches.is_last(number)
        fetched = self.ahead if self.ahead is not None else self.cache.fetch(self.subgraph.reads, last=last)
        if self.context.job.progress_bars and number % 2:
            self.names.move("inputs", ENUMERATED)
        else:
            self.names.delete(ENUMERATED)
        self.names.bind("inputs", *fetched)
        # iter_prefetch: the next batch is on its way while this one runs
        self.ahead = (
            self.cache.fetch(self.subgraph.reads, last=batches.is_last(number + 1))
            if self.context.job.prefetch and not last
            else None
        )
        self.names.bind(self.result, *self.forward.run(self.subgraph, self.hooked, batches.share(number)))
        if self.store:
            self._store(last)

    def _store(self, last: bool) -> None:
        if self.cache.device == self.context.device:
            # the cache takes the very tensors: they are counted there from now on
            self.names.bind(self.result)
        self.cache.update(self.subgraph.writes, last=last)
        self.names.extend("inputs", self.cache.delete(self.subgraph.consumed, last=last))
