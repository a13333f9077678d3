"""Shows on stderr what is being done, for work that takes longer than a second."""

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from planner.commands.shell import check_address_space

if TYPE_CHECKING:
    from rich.status import Status

DELAY_SECONDS = 1.0


class Progress:
    """Show the latest text given to `say` with a spinner, only on a terminal and not before DELAY_SECONDS.

    Use it as a context manager: leaving it, also by Ctrl-C, removes the line and restores the cursor.
    """

    def __init__(self, delay: float = DELAY_SECONDS) -> None:
        self._text = "loading the libraries"
        self._status: Status | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(delay, self._show)
        self._timer.daemon = True

    def say(self, text: str) -> None:
        """Show this text as what is being done now."""
        with self._lock:
            self._text = text
            if self._status is not None:
                self._status.update(_plain(text))

    def __enter__(self) -> Self:
        check_address_space()
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True  # the timer may have fired just before cancel
            if self._status is not None:
                self._status.stop()

    def _show(self) -> None:
        from rich.console import Console
        from rich.status import Status

        with self._lock:
            if not self._closed:
                self._status = Status(_plain(self._text), console=Console(stderr=True))
                self._status.start()


def _plain(text: str) -> str:
    """The text with rich's markup escaped: a recipe may be called [draft]."""
    from rich.markup import escape

    return escape(text)
