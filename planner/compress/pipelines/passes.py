"""One pass of all batches through one subgraph, with the names that Python keeps between batches.

The loop body of pipelines/sequential/pipeline.py has three names that outlive a batch, and a subgraph: `inputs`
(what was fetched from the activation cache), `outputs` (of the calibration pass) and `output` (of the propagation
pass). Their tensors are freed when the name is bound anew, so a batch runs beside what the batch before left behind.

A progress bar keeps one batch more while every second batch runs. `_get_batches` loops over tqdm(enumerate(batches)),
and CPython's enumerate (Objects/enumobject.c enum_next) hands out the same tuple again and again, as long as nobody
else refers to it. Without a bar nobody does: tqdm.__iter__ is a `yield from`. With one, its loop variable `obj` holds
the tuple while the next is asked for. So batch 1 gets a new tuple, and enumerate's own holds batch 0 until batch 2
is put into it; that one then stays beside batch 3, and so on. When the loop ends, enumerate goes.

With prefetch, a thread fetches the next batch while one runs (pipelines/cache.py iter_prefetch). It copies on a CUDA
stream that is made for the pass, so each batch is taken from that stream's own cached memory, which no other pass and
no forward can use. The copy is asked for before the loop binds the batch that is there already: three lie side by side
for a moment. The thread is free to come later; it was seen to come at once, because the main one lets go of Python's
lock when it waits for the stream's event.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from planner.compress.batches import PATIENCE, Batches, walk_batches
from planner.compress.cache import ActivationCache
from planner.compress.context import Context, Frame
from planner.compress.forward import Hooked, SubgraphForward
from planner.compress.program import Subgraph
from planner.timeline import Handle

PASSED = {"outputs": "inputs in outputs", "output": "inputs in output"}
"""Tensors that a name of outputs holds as well as `inputs`, which lets go of them first."""
NAMES = ("inputs", *PASSED, *PASSED.values())
ENUMERATED, PASSED_ENUMERATED = "enumerate", "inputs in enumerate"
"""What the tuple in enumerate still refers to, beside `inputs`."""


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
    ahead: list[tuple[int, Handle]] | None = None
    """The next batch, where it was fetched while the one before ran (iter_prefetch)."""

    stream: int = 0
    """The CUDA stream that batches are fetched on."""

    def run(self) -> None:
        """Walk the batches in order, passing over those that would only repeat the one before."""
        if self.context.job.prefetch:
            self.stream = self.context.new_stream()
        batches = Batches(self.context.job)
        keeps = any(hooked.modifier.keeps_batches for hooked in self.hooked)
        patience = PATIENCE if keeps else 1
        one = partial(self._batch, batches=batches)
        walk_batches(self.context, batches.count, one, patience=patience, called="batch")
        self.names.delete(ENUMERATED, PASSED_ENUMERATED)

    def _batch(self, number: int, batches: Batches) -> None:
        last = batches.is_last(number)
        fetched = self.ahead if self.ahead is not None else self._fetch(last)
        prefetches = self.context.job.prefetch and not last
        self.ahead = self._fetch(batches.is_last(number + 1)) if prefetches else None
        if self.context.job.progress_bars and number % 2:
            self.names.move("inputs", ENUMERATED)
            self.names.move(PASSED[self.result], PASSED_ENUMERATED)
        else:
            self.names.delete(ENUMERATED, PASSED_ENUMERATED)
        passed = [handle for number, handle in fetched if number in self.subgraph.passed]
        self.names.bind("inputs", *(handle for _, handle in fetched if handle not in passed))
        outputs = self.forward.run(self.subgraph, self.hooked, batches.share(number), dict(fetched), again=number > 0)
        shares = self.store and self.cache.device == self.context.device
        self.names.bind(self.result, *(() if shares else outputs.values()))
        self.names.bind(PASSED[self.result], *passed)
        if self.store:
            with self._offloaded_again(last):
                # a cache on this device takes the very tensors: they are counted there from now on
                self.cache.store(self.subgraph.writes, outputs if shares else {}, last=last)
            self.context.traffic.off_gpu(0 if shares else self.cache.batch_bytes(self.subgraph.writes, last=last))
            still_held = self.cache.delete(self.subgraph.consumed, last=last)
            for number, handle in zip(self.subgraph.consumed, still_held, strict=False):
                if number in self.forward.cached:  # a modifier keeps it, for longer than the name does
                    self.context.ledger.bequeath(handle, self.forward.cached[number])
            self.names.extend("inputs", still_held)

    @contextmanager
    def _offloaded_again(self, last: bool) -> Iterator[None]:
        """cache.py `update` copies what was passed as all else, and then lets go of the copies of it in the cache."""
        if self.cache.device == self.context.device:
            yield
            return
        nbytes = self.cache.batch_bytes(self.subgraph.passed, last=last)
        self.context.traffic.off_gpu(nbytes)
        with self.context.ledger.hold(self.cache.device, nbytes, "activation_cache", "inputs once more"):
            yield

    def _fetch(self, last: bool) -> list[tuple[int, Handle]]:
        with self.context.ledger.on_stream("gpu", self.stream):
            fetched = self.cache.fetch(self.subgraph.reads, last=last)
        self.context.traffic.onto_gpu(sum(self.context.ledger.size(handle) for _, handle in fetched))
        return fetched
