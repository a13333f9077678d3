"""A parent module run again on all batches: transform/awq/base.py `_run_samples`, and what is done with its outputs."""

from collections.abc import Callable

from planner.compress.batches import PATIENCE, Batches, walk_batches
from planner.compress.context import Context, Frame
from planner.compress.holdings import Owner
from planner.compress.modifiers.awq_arguments import KeptArguments
from planner.compress.modifiers.awq_loss_mask import marked_outputs
from planner.cuda.operands import Operand
from planner.cuda.reductions import buffer_sizes
from planner.cuda.requests import temporaries
from planner.timeline import Handle
from planner.units import FP32, INT64

_DTYPE = {2: "bfloat16", 4: "float32"}


class Samples:
    """One parent's batches."""

    def __init__(self, context: Context, parent: str, kept: KeptArguments, *, copies: bool) -> None:
        self._context, self._parent, self._kept, self._copies = context, parent, kept, copies
        self._batches = Batches(context.job)
        self._ahead: tuple[Handle, ...] | None = None
        self._stream = 0

    def pin(self) -> None:
        """pipelines/cache.py pin_memory: tensor by tensor a pinned copy takes the place of the one on the CPU."""
        for nbytes in self._kept.first if self._copies else ():
            owner = Owner(self._parent, "arguments in pinned memory")
            with self._context.ledger.hold("cpu", nbytes, "activation_cache", owner):
                pass

    # ------------------------------------------------------------------ the parent
    def run(self, role: str) -> Handle:
        """The first output of every batch, as one holding of the caller's. Whole tuples live until the last one ran."""
        ledger, device = self._context.ledger, self._context.device
        outputs = ledger.open(device, "awq", Owner(self._parent, role))
        others = ledger.open(device, "awq", Owner(self._parent, "outputs beside the first"))
        self._stream = self._context.new_stream() if self._context.job.prefetch else 0
        with self._context.frame("batch", Owner(self._parent, "arguments")) as names:
            self._walk(lambda number: self._batch(number, names, outputs, others))
        ledger.free(others)
        return outputs

    def _walk(self, batch: Callable[[int], None]) -> None:
        walk_batches(self._context, self._batches.count, batch, patience=PATIENCE)

    def _batch(self, number: int, names: Frame, outputs: Handle, others: Handle) -> None:
        """outputs = [module(**batch) for batch in batch_iter]"""
        if self._copies:
            fetched = self._ahead if self._ahead is not None else self._fetch(number)
            prefetches = self._context.job.prefetch and number + 1 < self._batches.count
            self._ahead = self._fetch(number + 1) if prefetches else None
            names.bind("batch", *fetched)
        returned = self._context.forward.replay(self._parent, self._batches.share(number))
        heirs = [outputs if self._kept.is_new else others, *[others] * len(returned)]
        for handle, heir in zip(returned, heirs, strict=False):
            self._context.ledger.give(handle, heir)

    def _fetch(self, number: int) -> tuple[Handle, ...]:
        """IntermediatesCache.fetch: copies on the GPU."""
        context, owner = self._context, Owner(self._parent, "arguments of a batch")
        with context.ledger.on_stream("gpu", self._stream):
            handles = tuple(context.take(nbytes, "batch", owner) for nbytes in self._sizes(number))
        context.traffic.onto_gpu(sum(self._sizes(number)))
        return handles

    def _sizes(self, number: int) -> tuple[int, ...]:
        return self._kept.last if self._batches.is_last(number) else self._kept.first

    # ------------------------------------------------------------------ its outputs
    def check_finite(self) -> None:
        """[fp16_output.isfinite().all() for ...]: abs, two masks and theirs; the verdicts wait for each other.

        native/TensorCompare.cpp isfinite: (self == self) * (self.abs() != inf).
        """
        ledger, owner = self._context.ledger, Owner(self._parent, "outputs")
        verdicts = ledger.open(self._context.device, "awq", owner.part("are finite"))
        with self._context.frame("awq", owner) as names:

            def batch(number: int) -> None:
                size, numel = self._output(number)
                names.assign("abs", size)
                names.assign("is no infinity", numel)
                names.assign("is a number", numel)
                names.assign("is finite", numel)
                names.delete("is a number", "is no infinity", "abs")
                ledger.grow(verdicts, 1)
                self._reduce(names, numel, "bool", 1)
                names.delete("is finite")

            self._walk(batch)
        ledger.free(verdicts)

    def compare(self, names: Frame) -> None:
        """base.py `_compute_loss`: batch by batch the sum of the squared differences.

        native/Loss.cpp mse_loss_out: a CUDA build makes room for all differences twice, in the result that is
        reduced to one number and in what is summed.
        """
        if names.build is None:
            if self._context.job.loss_mask:
                self._walk(lambda number: self._mark(number, names))
        else:
            names.assign("loss", FP32)
            names.assign("num_elements", INT64)
            self._walk(lambda number: self._compare(number, names))
            names.temporary(FP32, "mean loss")
            names.delete("loss", "num_elements")
        names.delete("token_mask", "fp16_masked", "int_w_masked")

    def _compare(self, number: int, names: Frame) -> None:
        """loss += mse_loss(..., reduction="sum")"""
        if self._context.job.loss_mask:
            self._mark(number, names)
        size, numel = self._output(number)
        with names.during(size, "room of the loss"), names.during(size, "squared differences"):
            self._reduce(names, numel, _DTYPE[self._kept.itemsize], FP32)

    def _mark(self, number: int, names: Frame) -> None:
        """The marked tokens of both outputs."""
        job = self._context.job
        samples = job.last_batch_size if self._batches.is_last(number) else job.batch_size
        marked_outputs(names, (samples, job.seq_len), self._output(number)[0])

    def _output(self, number: int) -> tuple[int, int]:
        """Bytes and numbers of the first output."""
        size = self._kept.outputs[sum(self._sizes(number))]
        return size, size // self._kept.itemsize

    def _reduce(self, names: Frame, numel: int, dtype: str, accumulator: int) -> None:
        """A reduction of all numbers to one."""
        if names.build is not None:
            buffers = buffer_sizes(Operand((numel,), (1,), dtype), (0,), accumulator, names.build)
            names.operator(temporaries(*buffers), "partial results")
