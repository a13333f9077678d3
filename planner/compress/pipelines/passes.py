"""One pass of all batches through one subgraph, with the names that Python keeps between batches.

The loop body of pipelines/sequential/pipeline.py has three names that outlive a batch, and a subgraph: `inputs`
(what was fetched from the activation cache), `outputs` (of the calibration pass) and `output` (of the propagation
pass). Their tensors are freed when the name is bound anew, so a batch runs beside what the batch before left behind.

All batches are equal except the last, which may be shorter. Growing holdings aside (the activation cache, whatever a
modifier keeps for each sample), as soon as one batch leaves everything as it found it, every later one would do the
same. The batches between it and the last two are then passed over, and for each of them the growing holdings change by
what that one batch changed.
"""

from dataclasses import dataclass

from planner.compress.cache import ActivationCache
from planner.compress.context import Context, Frame
from planner.compress.forward import Hooked, SubgraphForward
from planner.compress.ledger import Handle
from planner.compress.program import Subgraph
from planner.job import Job

NAMES = ("inputs", "outputs", "output")


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
        number, before = 0, None
        while number < batches.count:
            growth = self.context.ledger.growth()
            self._batch(number, batches)
            number += 1
            if not self.context.shortcuts.batches:
                continue
            after = self.context.ledger.state()
            passed_over = batches.count - 2 - number
            if after == before and passed_over > 0:
                self._grow(growth, passed_over)
                number += passed_over
            before = after

    def _batch(self, number: int, batches: Batches) -> None:
        last = batches.is_last(number)
        fetched = self.ahead if self.ahead is not None else self.cache.fetch(self.subgraph.reads, last=last)
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

    def _grow(self, before: dict[Handle, dict[int, int]], times: int) -> None:
        """Repeat what every growing holding has changed since `before` another `times` times; shrinking comes first."""
        changes = [
            (handle, size, count - before.get(handle, {}).get(size, 0))
            for handle, sizes in self.context.ledger.growth().items()
            for size, count in {**dict.fromkeys(before.get(handle, {}), 0), **sizes}.items()
        ]
        for handle, size, change in sorted(changes, key=lambda c: c[2]):
            self.context.ledger.grow(handle, size * change * times, abs(change) * times)
