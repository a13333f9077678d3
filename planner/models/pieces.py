"""Which wrapped piece of a traced forward is running: LLM Compressor's tracer sees it as one function (wrapping.py).

pipelines/sequential/ast_utils/auto_wrapper.py: such a function is passed every name that the piece uses. Made of an
`if`, it returns a tuple of the names that the piece assigns; made of a call, what the call returns.
"""

import sys
from collections.abc import Iterable, Iterator
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
        return self._values(self.source.names)

    def returned(self) -> list[Any]:
        """What the names that it assigns stand for now."""
        return self._values(self.source.assigned)

    def _values(self, names: Iterable[str]) -> list[Any]:
        here = self.frame.f_locals
        return [here[name] for name in sorted(names) if name in here]


class Pieces:
    """The wrapped pieces of the forwards of these modules."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._of: dict[CodeType, tuple[WrappedPiece, ...]] = {
            forward.code: tuple(wrapped_pieces(forward)) for forward in forwards(modules)
        }
        self._reached: dict[CodeType, tuple[FrameType, int]] = {}
        """The last run of each forward, and the line where a call was last asked about."""

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

    def passed_over(self) -> Iterator[RunningPiece]:
        """Pieces of the innermost forward that ran since the call before, and called nothing: `if cache is not None`.

        What they return is what they were passed, and yet it waits for all that they were passed.
        """
        frame = sys._getframe(1).f_back
        while frame is not None and frame.f_code not in self._of:
            frame = frame.f_back
        if frame is None:
            return
        before, line = self._reached.get(frame.f_code, (None, 0))
        self._reached[frame.f_code] = frame, frame.f_lineno
        start = line if before is frame else frame.f_code.co_firstlineno
        for piece in self._of[frame.f_code]:
            if start < piece.first and piece.last < frame.f_lineno:
                yield RunningPiece(frame, piece)
