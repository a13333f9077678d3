"""Writes what happens as JSON lines, which the parent reads (planner/rehearse/events.py)."""

import json
import os
from pathlib import Path
from typing import Any


class Events:
    """One file of events. A process that was forked off writes nothing."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("a", encoding="utf-8")
        self._process = os.getpid()

    @property
    def is_ours(self) -> bool:
        """This process is the one that is rehearsed."""
        return os.getpid() == self._process

    def write(self, event: str, **facts: Any) -> None:
        """Append one event."""
        if self.is_ours:
            self._out.write(json.dumps({"event": event, **facts}, default=str) + "\n")
            self._out.flush()

    def note(self, kind: str, text: str) -> None:
        """Append what the reader of the report must know."""
        self.write("note", kind=kind, text=text)
