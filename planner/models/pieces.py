"""Which wrapped piece of a traced forward is running: LLM Compressor's tracer sees it as one function (wrapping.py).

pipelines/sequential/ast_utils/auto_wrapper.py: such a function is passed every name that the piece uses. Made of an
`if`, it returns a tuple of the names that the piece assigns; made of a call, what the call returns.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch

from planner.models.wrapping import WrappedPiece, forwards, wrapped_pieces


@dataclass(frozen=True, slots=True)
class RunningPiece:
    """One run of a wrapped piece."""

    frame: FrameType
    """Of the forward that it stands in."""
    source: WrappedPiece

    def passed(self) -> list[Any]:
        """What the names that it uses stand for now."""
        here = self.frame.f_locals
        return [here[name] for name in sorted(self.source.names) if name in here]


class Pieces:
    """The wrapped pieces of the forwards of these modules."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._of: dict[CodeType, tuple[WrappedPiece, ...]] = {
            forward.code: tuple(wrapped_pieces(forward)) for forward in forwards(modules)
        }

    def running(self) -> RunningPiece | None:
        """The outermost piece that the caller runs in, if any."""
        found = None
        frame = sys._getframe(1).f_back
        while frame is not None:
            for piece in self._of.get(frame.f_code, ()):
                if piece.first <= frame.f_lineno <= piece.last:
                    found = RunningPiece(frame, piece)
            frame = frame.f_back
        return found
