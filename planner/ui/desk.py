"""Where questions wait for the process that plans: of each page the newest alone, and none of them for ever."""

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from planner.errors import UiError
from planner.ui.lines import kind_of, line
from planner.ui.question import PageQuestion
from planner.ui.worker import MakeAnswer, plans, work

MOST_WAITING = 16
GRACE_SECONDS = 10.0
"""So long the process may take to break off, before it is ended and what it kept is lost."""
LIMIT_SECONDS = 600.0
"""So long one question may take, strategies included."""
TOO_LONG = "this took longer than {:g} minutes; in a terminal it may take as long as it needs"
GONE = "the process that plans has ended (too little memory?); change something, and a new one begins"


@dataclass(eq=False)
class Ticket:
    """One question, from when it comes in until its page has all, or wants it no more."""

    question: PageQuestion
    lines: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    number: int = 0
    has: set[str] = field(default_factory=set)
    """Kinds of lines that the page has."""
    is_over: bool = False
    """Nobody waits for its lines any more."""


class Desk:
    """Gives questions to the process, one after the other, and their lines to whoever asked."""

    def __init__(
        self, make: MakeAnswer = plans, *, limit_seconds: float = LIMIT_SECONDS, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._make, self.limit_seconds, self._grace = make, limit_seconds, grace_seconds
        self._waiting: list[Ticket] = []
        self._running: Ticket | None = None
        self._numbers = 0
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Start the process, which imports torch while nobody waits for it yet."""
        self._loop = asyncio.get_running_loop()
        self._start()

    def close(self) -> None:
        """End the process."""
        for timer in self._timers:
            timer.cancel()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join(1)

    def state(self) -> dict[str, Any]:
        """What is going on here."""
        is_alive = self._process is not None and self._process.is_alive()
        return {"planning": self._running is not None, "waiting": len(self._waiting), "process": is_alive}

    async def answers(self, question: PageQuestion) -> AsyncIterator[bytes]:
        """The lines of the answer, as they come. To stop listening ends the work on it.

        Raises UiError where too many pages wait.
        """
        ticket = Ticket(question)
        self._hand_in(ticket)
        try:
            while (data := await ticket.lines.get()) is not None:
                yield data
        finally:
            self._leave(ticket)

    # ------------------------------------------------------------------ inside
    def _hand_in(self, ticket: Ticket) -> None:
        client = ticket.question.client
        for older in [each for each in self._waiting if each.question.client == client]:
            self._end(older, line("superseded"))
        running = self._running
        if running is not None and running.question.client == client:
            self._end(running, line("superseded"))
        elif running is not None and "plan" in running.has and not running.is_over:
            self._break_off(running)  # the other page has its plan: what it lacks comes after this one's
        if len(self._waiting) >= MOST_WAITING:
            raise UiError("too many pages wait for a plan; close some of them")
        self._waiting.append(ticket)
        if self._running is not None:
            ticket.lines.put_nowait(line("progress", text="waiting for the plan before this one"))
        self._next()

    def _leave(self, ticket: Ticket) -> None:
        if not ticket.is_over:
            self._end(ticket)

    def _end(self, ticket: Ticket, last: bytes | None = None) -> None:
        """Send its page a last line, and nothing after it."""
        ticket.is_over = True
        if last is not None:
            ticket.lines.put_nowait(last)
        ticket.lines.put_nowait(None)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        if ticket is self._running:
            self._break_off(ticket)

    def _next(self) -> None:
        if self._running is not None or not self._waiting:
            return
        if self._process is None:
            self._start()
        assert self._pipe is not None
        assert self._loop is not None
        self._numbers += 1
        ticket = self._running = self._waiting.pop(0)
        ticket.number = self._numbers
        with suppress(OSError):  # where it has just ended, its thread says so
            self._pipe.send(("ask", ticket.number, ticket.question, frozenset(ticket.has)))
        self._after(self.limit_seconds, self._took_too_long, ticket)

    def _after(self, seconds: float, do: Any, *arguments: Any) -> None:
        assert self._loop is not None
        self._timers.append(self._loop.call_later(seconds, do, *arguments))

    def _took_too_long(self, ticket: Ticket) -> None:
        if ticket is self._running and not ticket.is_over:
            self._end(ticket, line("error", text=TOO_LONG.format(self.limit_seconds / 60)))

    def _break_off(self, ticket: Ticket) -> None:
        if self._pipe is not None:
            with suppress(OSError):
                self._pipe.send(("stop", ticket.number))
            self._after(self._grace, self._kill, ticket, ticket.number)

    def _kill(self, ticket: Ticket, number: int) -> None:
        if self._process is not None and ticket is self._running and ticket.number == number:
            self._process.kill()

    def _came(self, pipe: Connection, number: int, data: bytes | None) -> None:
        """A line of the process, or None at the end of an answer."""
        ticket = self._running
        if pipe is not self._pipe or ticket is None or ticket.number != number:
            return
        if data is None:
            self._finished(ticket)
        elif not ticket.is_over:
            ticket.has.add(kind_of(data))
            ticket.lines.put_nowait(data)

    def _finished(self, ticket: Ticket) -> None:
        self._running = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if not ticket.is_over and not ticket.has & {"done", "error"}:
            self._waiting.append(ticket)  # it made way for another page
        elif not ticket.is_over:
            ticket.is_over = True
            ticket.lines.put_nowait(None)
        self._next()

    def _ended(self, pipe: Connection) -> None:
        """The process is gone."""
        if pipe is not self._pipe:
            return
        self._process = self._pipe = None
        ticket = self._running
        if ticket is not None and not ticket.is_over:
            if not ticket.has & {"done", "error"}:
                ticket.lines.put_nowait(line("error", text=GONE))
            ticket.has.add("error")
            self._finished(ticket)
        elif ticket is not None:
            self._finished(ticket)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, self._make), name="planner-ui", daemon=True)
        self._process.start()
        other.close()
        threading.Thread(target=self._listen, args=(self._pipe,), daemon=True).start()

    def _listen(self, pipe: Connection) -> None:
        """In a thread: hand what the process writes to the loop."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            while True:
                try:
                    number, data = pipe.recv()
                except (EOFError, OSError):
                    break
                self._loop.call_soon_threadsafe(self._came, pipe, number, data)
            self._loop.call_soon_threadsafe(self._ended, pipe)
