"""What a reader must know of a plan that models a CUDA build."""

from collections.abc import Collection

from planner.cuda.settings import AllocatorSettings
from planner.notes import Note


def note_on_unruled(operators: Collection[str]) -> tuple[Note, ...]:
    """Names the traced operators of which no rule says what they take beside their results; none: no note."""
    if not operators:
        return ()
    names = ", ".join(sorted(operators))
    text = f"what PyTorch's CUDA build takes beside the results of these operators is unknown and not counted: {names}"
    return (Note(kind="estimate", text=text),)


def notes_on_settings(settings: AllocatorSettings) -> tuple[Note, ...]:
    """What PYTORCH_ALLOC_CONF does otherwise than its reader may think."""
    texts = []
    if settings.garbage_collection and settings.memory_fraction is None:
        texts.append(
            "garbage_collection_threshold does nothing: PyTorch counts it against per_process_memory_fraction, which "
            "is not set (c10/cuda/CUDACachingAllocator.cpp set_fraction)"
        )
    if settings.expandable_segments:
        texts.append("expandable_segments is modelled from PyTorch's source and was not measured")
    return tuple(Note(kind="estimate", text=text) for text in texts)
