"""What a reader must know beside the figures, sorted by what it speaks of."""

from collections.abc import Iterable
from typing import Literal

from planner.records import Record

NoteKind = Literal["model", "recipe", "job", "estimate", "fails", "result"]


class Note(Record):
    """One thing to know, as a full sentence and with its kind, so that no reader has to look for words in it."""

    kind: NoteKind
    """What it speaks of.

    model: the model itself, such as layers that are not loaded from the checkpoint;
    recipe: what LLM Compressor makes of a recipe: fields and targets that it does not heed;
    job: what the job's options do, such as the pipeline;
    estimate: what in the figures is estimated or not counted;
    fails: the job starts in LLM Compressor and does not finish;
    result: the checkpoint that is saved and served.
    """
    text: str


def texts(notes: Iterable[Note]) -> tuple[str, ...]:
    """The sentences in order, each once."""
    return tuple(dict.fromkeys(note.text for note in notes))
