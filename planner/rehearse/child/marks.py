"""`planner.mark("name")`: what the script does from here on is a step of this name."""

from collections.abc import Callable
from typing import Any

_listener: Callable[[str], None] | None = None


def mark(name: str) -> None:
    """A new step of the rehearsal begins here. Outside of a rehearsal this does nothing."""
    if _listener is not None:
        _listener(str(name))


def install(steps: Any) -> None:
    """Tell these steps of every mark."""
    global _listener

    def listen(name: str) -> None:
        steps.begin("script")
        steps.marked = name

    _listener = listen
