"""What a job does not know of its card."""

from collections.abc import Iterator

from planner.hardware import label_notes
from planner.job import DEFAULT_SM, Job
from planner.notes import Note


def card_notes(job: Job) -> Iterator[Note]:
    """Where the job says a size and names no card: whether that is a label, and what is assumed.

    The job's default size says nothing of a card, so nothing is said of it.
    """
    if job.gpu is not None or "gpu_memory_bytes" not in job.model_fields_set:
        return
    for text in label_notes(job.gpu_memory_bytes):
        yield Note(kind="card", text=text)
    if job.sm is None:
        major, minor = divmod(DEFAULT_SM, 10)
        text = f"What depends on the card's compute capability is planned as for {major}.{minor}: --sm says another."
        yield Note(kind="card", text=text)
