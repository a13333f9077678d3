"""What a reader must know beside the figures, sorted by subject."""

from collections.abc import Iterable
from typing import Literal

from planner.records import Record

NoteKind = Literal["model", "recipe", "job", "estimate", "fails", "result", "card", "rehearsal", "unsorted"]


class Note(Record):
    """One thing to know, as a full sentence and with its kind, so that no reader has to look for words in it."""

    kind: NoteKind
    """The subject of the note.

    model: the model itself, such as layers that are not loaded from the checkpoint;
    recipe: how LLM Compressor reads a recipe, such as fields and targets that it ignores;
    job: what the job's options do, such as the pipeline;
    estimate: the parts of the figures that are estimated or not counted;
    fails: the job starts in LLM Compressor and does not finish, or it ends with a result that is worth nothing;
    result: the checkpoint that is saved and served;
    card: what is not known of the GPU, such as a label that stands for its memory;
    rehearsal: what a rehearsal made up, and what it cannot know;
    unsorted: unknown, because the plan was saved before notes had a kind.
    """
    text: str


def texts(notes: Iterable[Note]) -> tuple[str, ...]:
    """The sentences in order, each once."""
    return tuple(dict.fromkeys(note.text for note in notes))
