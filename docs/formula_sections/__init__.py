"""The parts of docs/formulas.md, in order."""

from collections.abc import Callable

from formula_sections import compression, guides, memory, serving, training, weights

SECTIONS: tuple[Callable[[], str], ...] = (
    weights.section,
    memory.section,
    serving.section,
    training.section,
    compression.section,
    guides.section,
)
