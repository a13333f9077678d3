"""What a reader must know of a plan that models a CUDA build."""

from collections.abc import Collection

from planner.notes import Note


def note_on_unruled(operators: Collection[str]) -> tuple[Note, ...]:
    """Names the traced operators of which no rule says what they take beside their results; none: no note."""
    if not operators:
        return ()
    names = ", ".join(sorted(operators))
    text = f"what PyTorch's CUDA build takes beside the results of these operators is unknown and not counted: {names}"
    return (Note(kind="estimate", text=text),)
