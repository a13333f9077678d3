"""What a plan says about how a model was traced."""

from planner.notes import Note

LOST_MASK = Note(
    kind="model",
    text="LLM Compressor traces this model so that its attention gets no mask while calibrating "
    "(the traced config has no attention implementation): no mask is in memory, and attention is not causal.",
)

CUT_LAYERS = Note(
    kind="estimate",
    text="Borders run inside the layers: which side of a border a small operation falls on can differ from LLM "
    "Compressor's choice, by which single steps may be off by a few percent.",
)
