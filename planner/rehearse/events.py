"""Reads what the child wrote: events, origins."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class CodeFrame:
    """A line of code that asked for memory."""

    file: str
    function: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} {self.function}"


@dataclass(slots=True)
class Told:
    """Everything that a child told, in its order."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)
    """Empty where the process ended without saying how."""


def read_events(path: Path) -> Told:
    """What is in the file; a line that was not written to its end is left out."""
    told = Told()
    for event in _lines(path):
        kind = event.pop("event")
        if kind == "step":
            told.steps.append(event)
        elif kind == "model":
            told.models.append(event)
        elif kind == "job":
            told.jobs.append(event)
        elif kind == "note":
            told.notes.append((event["kind"], event["text"]))
        elif kind == "end":
            told.end = event
    return told


def read_origins(path: Path) -> dict[int, tuple[CodeFrame, ...]]:
    """The frames of each origin, the innermost first."""
    origins: dict[int, tuple[CodeFrame, ...]] = {}
    for event in _lines(path):
        lines = (line.split("\t") for line in event["frames"].splitlines())
        origins[event["origin"]] = tuple(CodeFrame(file, function, int(line)) for file, function, line in lines)
    return origins


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                return
