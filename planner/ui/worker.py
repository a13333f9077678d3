"""The process that plans. It answers one question at a time, and breaks off when it is told to.

Planning is Python that keeps the interpreter busy, and a thread of it would hold up the server. So it has a process of
its own, which keeps what it built and traced.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import FrameType

from planner.collector import collect_seldom
from planner.errors import PlannerError
from planner.ui.lines import line
from planner.ui.question import PageQuestion, one_line

AGAIN_SECONDS = 0.05
BUG = "a fault of planner itself, not of what you asked ({}); the terminal in which `planner ui` runs shows where"


class BrokenOff(BaseException):
    """The page wants something else by now. No Exception, so that nothing takes it for a model's own failure."""


Answer = Callable[[PageQuestion, Collection[str]], Iterator[bytes]]
"""Lines for a question, without those kinds that its page has already."""
MakeAnswer = Callable[["Worker"], Answer]
"""Makes, in the worker's process, what answers there."""


def plans(worker: "Worker") -> Answer:
    """The real one. All that it needs is imported now: an import that is broken off cannot be made again."""
    import planner.models.load
    import planner.planning
    import planner.serving.results  # noqa: F401  (imported to be there)
    from planner.ui.answers import Answers

    answers = Answers(worker.say, worker.untouched)
    answers.warm_up()
    return answers


def work(pipe: Connection, make: MakeAnswer) -> None:
    """Run a worker until the other end of the pipe is closed: what a new process is started with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    collect_seldom()
    Worker(pipe, make).run()


class Worker:
    """Reads questions from a pipe, and writes (number, line) for each line of an answer, (number, None) at its end."""

    def __init__(self, pipe: Connection, make: MakeAnswer) -> None:
        self._pipe, self._make = pipe, make
        self._inbox: SimpleQueue[tuple[int, PageQuestion, Collection[str]]] = SimpleQueue()
        self._current: int | None = None
        self._unwanted: int | None = None
        self._shields = 0

    def run(self) -> None:
        """Answer for ever. A fault of planner ends the process, so that nothing half done stays."""
        main = threading.get_ident()
        signal.signal(signal.SIGUSR1, self._break_off)
        threading.Thread(target=self._read, args=(main,), daemon=True).start()
        answer = self._make(self)
        while True:
            number, question, has = self._inbox.get()
            with suppress(BrokenOff):
                self._answer(answer, number, question, has)
            self._current = None  # also where the signal came between the last line and here
            self._send(number, None)

    def say(self, text: str) -> None:
        """Tell the page what is being done."""
        if self._current is not None:
            self._send(self._current, line("progress", text=text))
            self._check()

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """A block in which nothing is broken off: that is done at the next word or line, when its value is kept."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    def _answer(self, answer: Answer, number: int, question: PageQuestion, has: Collection[str]) -> None:
        self._current = number
        try:
            self._check()
            for each in answer(question, has):
                self._send(number, each)
                self._check()
        except PlannerError as error:
            self._send(number, line("error", text=one_line(error)))
        except Exception as error:
            traceback.print_exc()
            self._send(number, line("error", text=BUG.format(type(error).__name__)))
            sys.stderr.flush()
            os._exit(1)  # the end of the pipe is the end of the answer
        finally:
            self._current = None

    def _send(self, number: int, data: bytes | None) -> None:
        self._shields += 1  # half a message would be the end of all others
        self._pipe.send((number, data))
        self._shields -= 1

    def _read(self, main: int) -> None:
        """In a thread: questions wait their turn, and what is not wanted any more is broken off at once."""
        while True:
            if self._is_unwanted() and not self._pipe.poll(AGAIN_SECONDS):
                signal.pthread_kill(
                    main, signal.SIGUSR1
                )  # Python swallows what is raised in a weak reference's callback
                continue
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # the server is gone
            if message[0] == "ask":
                self._inbox.put(message[1:])
            else:
                self._unwanted = message[1]
                signal.pthread_kill(main, signal.SIGUSR1)

    def _is_unwanted(self) -> bool:
        return self._current is not None and self._current == self._unwanted

    def _break_off(self, number: int, frame: FrameType | None) -> None:
        self._check()

    def _check(self) -> None:
        if self._is_unwanted() and not self._shields:
            raise BrokenOff
