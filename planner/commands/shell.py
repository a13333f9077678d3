"""What a command owes the shell that runs it: one line and an exit code where a stream or memory gives out."""

import errno
import io
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from planner.errors import JobError

TOO_LITTLE = "too little memory for the planner itself (it takes about 1 GB of address space; see `ulimit -v`)"
LEAST_ADDRESS_SPACE = 1 << 30
"""Bytes; with 650 MB the libraries under torch do not fail but try again for ever."""
_TRACES = ("Cannot allocate memory", "failed to map segment", "can't start new thread", "std::bad_alloc")


class StdoutError(OSError):
    """stdout took nothing: closed, full, or nobody reads it any more."""


class ClosedStream(io.TextIOBase):
    """Stands for a stream that the shell closed (`>&-`)."""

    def write(self, text: str) -> int:
        raise StdoutError(errno.EBADF, "closed by the shell")

    def fileno(self) -> int:
        raise StdoutError(errno.EBADF, "closed by the shell")


class Stdout(io.TextIOWrapper):
    """The real one, whose failures can be told from those of any other file."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise StdoutError(error.errno, error.strerror) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise StdoutError(error.errno, error.strerror) from error


def open_streams() -> None:
    """Make stdout's failures known by StdoutError, and let no file that is opened later become stdout or stderr.

    Python has None for a stream that was closed when it started; an error that cannot go to stderr goes to stdout.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
    streams: Any = sys  # typeshed knows of no None
    old = streams.stdout
    if old is None:
        streams.stdout = ClosedStream()
    else:
        how = {"encoding": old.encoding, "errors": old.errors, "line_buffering": old.line_buffering}
        streams.stdout = Stdout(old.detach(), **how)
    streams.stderr = streams.stderr or streams.stdout


def discard_output() -> None:
    """Send what still waits to be written to /dev/null, so that Python's own flush at the end cannot complain."""
    if not isinstance(sys.stdout, ClosedStream):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def tell(message: str) -> None:
    """One line on stderr; where that is closed, on stdout; where neither takes it, the exit code must do."""
    for stream in (sys.stderr, sys.stdout):
        try:
            print(f"planner: error: {message}", file=stream, flush=True)
        except OSError:
            continue
        return


def check_address_space() -> None:
    """Raise JobError where a limit on address space (`ulimit -v`) leaves too little for torch."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= limit < LEAST_ADDRESS_SPACE:
        raise JobError(TOO_LITTLE)


class Interrupts:
    """Remembers Ctrl-C: a library that is being imported may turn it into an error of its own."""

    def __init__(self) -> None:
        self.came = False

    def listen(self) -> None:
        """From now on Ctrl-C is remembered, and raises KeyboardInterrupt as it always does."""
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt


INTERRUPTS = Interrupts()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the system refused memory: torch's libraries, a thread's stack or an object found no room."""
    return isinstance(error, MemoryError) or any(trace in str(error) for trace in _TRACES)


def first_cause(error: BaseException, holds: Callable[[BaseException], bool]) -> bool:
    """Whether this holds for the error or for any that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        if holds(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
