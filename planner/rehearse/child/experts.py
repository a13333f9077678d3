"""A mixture's experts where nothing is kept of what they are called with: LLM Compressor runs each for each token that
is generated, most without rows, and for each batch that is propagated.

llmcompressor/modeling/moe/linear_experts.py LinearExperts2D.forward. An expert is called with inputs of the same shapes
again and again, and keeps nothing: its calls are played. So is the call of all of them, with what lies between. One
expert's turn is a round, and most do what the one before did: they are counted in the trace instead of written.

The classes have a call of their own meanwhile, and no longer: torch.fx knows the modules that it does not
look into by the call that they inherit (torch/fx/_symbolic_trace.py Tracer.trace), and would look into these.
"""

import functools
from typing import Any

from planner.rehearse.child.books import TensorBooks
from planner.rehearse.child.passing import Passing


def install(books: TensorBooks, passing: Passing, module: Any) -> None:
    """Play the calls of experts and of what calls them, where this release has them."""
    for name in ("ExpertMLPWithGate", "ExpertMLPWithoutGate"):
        owner: Any = getattr(module, name, None)
        if owner is not None:
            passing.calls[owner] = _expert(owner.__call__, books, passing)
    all_of_them: Any = getattr(module, "LinearExperts2D", None)
    if all_of_them is not None:
        passing.calls[all_of_them] = _experts(all_of_them.__call__, books, passing)
        passing.calls_without_hooks[all_of_them] = _mixture(all_of_them.__call__, passing)


def _expert(own: Any, books: TensorBooks, passing: Passing) -> Any:
    @functools.wraps(own)
    def call(expert: Any, *values: Any, **named: Any) -> Any:
        if not passing.may_play(expert):
            return own(expert, *values, **named)
        books.round()
        return passing.stand_in(expert, own)(*values, **named)

    return call


def _experts(own: Any, books: TensorBooks, passing: Passing) -> Any:
    @functools.wraps(own)
    def call(experts: Any, *values: Any, **named: Any) -> Any:
        if not passing.may_play(experts):
            return own(experts, *values, **named)
        try:
            return passing.stand_in(experts, own)(*values, **named)
        finally:
            books.rounds_over()

    return call


def _mixture(own: Any, passing: Passing) -> Any:
    @functools.wraps(own)
    def call(experts: Any, *values: Any, **named: Any) -> Any:
        if not passing.may_play(experts):
            return own(experts, *values, **named)
        return passing.stand_in(experts, own)(*values, **named)

    return call
