"""Loss masks among the calibration data (oneshot's use_loss_mask): what they add to a batch, and who keeps them.

A sample's mask is one more column, an int64 for each token. In the sequential pipeline no forward reads it, as
`Subgraph.input_names` has the model's own inputs alone: it lies in the activation cache until the pipeline returns. In
the basic one `model(**batch)` hands it on to all whose forwards take whatever comes, and AWQ keeps it among the
arguments of its parents.
Beside that core/state.py `State.loss_masks` has the masks of all batches. Nobody clears it: it lasts until a later
pipeline has made its own list, or else for the rest of the process.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from planner.compress.cache import ActivationCache
from planner.compress.context import Context
from planner.errors import UnsupportedError
from planner.job import Job
from planner.models.traces import CallValue, Crossing, ModelTrace, Segment, full_name
from planner.notes import Note
from planner.timeline import Handle
from planner.units import INT64, human_bytes

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

LOSS_MASK = "loss_mask"


def mask_receivers(graph: "ModelGraph", keeps_arguments: bool, job: Job) -> tuple[frozenset[str], tuple[Note, ...]]:
    """Modules whose arguments have the mask, where somebody keeps these, and what is to be said of that."""
    if not (job.loss_mask and job.pipeline == "basic" and keeps_arguments):
        return frozenset(), ()
    if graph.receivers is None or not all(segment.exact for segment in graph.trace.segments):
        return frozenset(), (_uncounted(job),)
    try:
        return graph.receivers(LOSS_MASK), ()
    except UnsupportedError as error:
        text = f"the basic pipeline calls the model with all columns of a batch, and with {LOSS_MASK} {error}"
        note = Note(kind="fails", text=f"This job fails in LLM Compressor: {text}")
        is_refused = isinstance(error.__cause__, TypeError)  # without the mask it runs: the trace is of that
        return frozenset(), (note if is_refused else _uncounted(job),)


def with_loss_masks(trace: ModelTrace, job: Job, receivers: frozenset[str] = frozenset()) -> ModelTrace:
    """The trace over batches that carry a loss mask, if the job's do; `receivers` have it among their arguments."""
    if not job.loss_mask:
        return trace
    sample = job.seq_len * INT64
    nbytes, number = sample * job.batch_size, max(trace.crossings, default=-1) + 1
    mask = Crossing(number, LOSS_MASK, nbytes, producer=-1, last_reader=-1)
    value = CallValue(LOSS_MASK, nbytes, (job.batch_size, job.seq_len))
    return replace(
        trace,
        segments=tuple(_received(segment, number, value, receivers) for segment in trace.segments),
        crossings={**trace.crossings, number: mask},
        sample_bytes=trace.sample_bytes + sample,
        batch_bytes=trace.batch_bytes + nbytes,
    )


def _received(segment: Segment, number: int, mask: CallValue, receivers: frozenset[str]) -> Segment:
    """The segment, whose calls of these modules are passed the mask."""
    if not any(name.startswith(segment.target) for name in receivers):
        return segment
    value = replace(mask, read=len(segment.reads))
    events = tuple(
        replace(event, call=replace(event.call, arguments=(*event.call.arguments, value)))
        if event.call is not None and full_name(segment.target, event.call.module) in receivers
        else event
        for event in segment.events
    )
    return replace(segment, events=events, reads=(*segment.reads, number))


def _uncounted(job: Job) -> Note:
    """What a plan leaves out where AWQ keeps the arguments of parents, and nobody knows of which."""
    most = human_bytes(job.samples * job.seq_len * INT64)
    text = f"in the basic pipeline AWQ keeps the loss masks among its parents' arguments; not counted, {most} at most"
    return Note(kind="estimate", text=text)


class LossMasks:
    """State.loss_masks of one process, over all its pipelines."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._held: Handle | None = None

    def fetch(self, cache: ActivationCache) -> None:
        """pipelines/sequential/pipeline.py: the masks of all batches on the computing device, in a new list.

        Where the cache lies there, the list has the cache's own tensors.
        """
        job, ledger = self._context.job, self._context.ledger
        if not job.loss_mask:
            return
        new = cache.hand_over(LOSS_MASK)
        if new is None:
            new = ledger.open(self._context.device, "batch", "loss masks of all batches")
            full, last = job.batches - 1, job.last_batch_size * job.seq_len * INT64
            ledger.grow(new, full * self.batch_bytes, full)
            ledger.grow(new, last)
            self._context.traffic.onto_gpu(full * self.batch_bytes + last)
        self._replace(new)

    def begin(self) -> None:
        """pipelines/basic/pipeline.py: an empty list, to which `append` adds the masks of one batch after the other."""
        if self._context.job.loss_mask:
            self._replace(self._context.ledger.open("cpu", "calibration_data", "loss masks of all batches"))

    def append(self, samples: int, size: int) -> int:
        """Keep the mask of a batch of `samples` of `size`, as collated on the CPU; returns its bytes."""
        if self._held is None:
            return 0
        nbytes = self.batch_bytes * samples // size
        self._context.ledger.grow(self._held, nbytes)
        return nbytes

    @property
    def batch_bytes(self) -> int:
        """Bytes of a whole batch's mask."""
        job = self._context.job
        return job.batch_size * job.seq_len * INT64

    def _replace(self, new: Handle) -> None:
        if self._held is not None:
            self._context.ledger.free(self._held)
        self._held = new
