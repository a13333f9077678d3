"""What a job does not know of its card."""

from collections.abc import Iterator

from planner.hardware import label_notes, named_gpu
from planner.job import DEFAULT_SM, Job
from planner.notes import Note
from planner.units import format_bytes


def card_notes(job: Job) -> Iterator[Note]:
    """Of a card that is none of CUDA's, that; where the job says a size and names no card, whether that is a label, and
    what is assumed.

    The job's default size says nothing of a card, so nothing is said of it.
    """
    if job.gpu is not None and (known := named_gpu(job.gpu)) is not None and known.sm is None:
        shares = f", and its {format_bytes(known.memory_bytes)} are the RAM's too" if known.unified else ""
        text = f"{known.name} runs no CUDA{shares}: planned is what CUDA would take of a card of its size."
        yield Note(kind="card", text=text)
    if job.gpu is not None or "gpu_memory_bytes" not in job.model_fields_set:
        return
    for text in label_notes(job.gpu_memory_bytes):
        yield Note(kind="card", text=text)
    if job.sm is None:
        major, minor = divmod(DEFAULT_SM, 10)
        text = f"What depends on the card's compute capability is planned as for {major}.{minor}: --sm says another."
        yield Note(kind="card", text=text)
