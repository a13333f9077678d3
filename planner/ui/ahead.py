"""Plans what the next move would ask for, while somebody reads the answer: then that move simulates nothing.

When which part comes is weighed against who waits. Whoever moves a slider moves it again within a second, so the two
stops beside that one come before the smallest card, which the next move would throw away; but only where they are
quick, as who stays to read waits for the smallest card. So all else comes after that: the other sliders, the
neighbouring cards, and then the charts of all these. Other ways to run the job take many times longer, and come last
where nobody needs one.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from planner.errors import PlannerError
from planner.ui import drafts
from planner.ui.drafts import Asked
from planner.ui.kept import Kept
from planner.ui.latest import Latest
from planner.ui.moves import Lane, Move, moved, moves
from planner.ui.question import PageQuestion

NEAR = 2
"""So many before the smallest card: of one slider, up and down."""
NEAR_SECONDS = 2.0
"""So long they may take: both for a dense model, one for a mixture, whose smallest card takes several times as long,
none for a job whose simulations are slow."""
SECONDS = 10.0
"""So long all others may take; of a large mixture that is enough for their plans, and not for charts."""
TRACE_SECONDS = 0.5
"""A trace is not broken off (kept.py): where it takes longer, a new question would wait for what nobody asked for."""
CLIENTS = 16


class Ahead:
    """Plans ahead into what is kept beside `base`, for one question after the other."""

    def __init__(self, base: Kept) -> None:
        self.kept = Kept(base.say, base.untouched, base)
        self._last: Latest[tuple[PageQuestion, Move | None]] = Latest(CLIENTS)
        """Of each page."""

    def lanes(self, question: PageQuestion) -> tuple[Lane, ...]:
        """What this page may ask next, the likeliest first."""
        before, move = self._last.get(question.client, lambda: (question, None))
        if before != question:
            move = moved(before, question)
        self._last.put(question.client, (question, move))
        return tuple(moves(question, move))

    def near(self, asked: Asked, lanes: Sequence[Lane]) -> None:
        """Plan the likeliest moves."""
        if self._may(asked):
            self._each(asked, self._draft, self._next(lanes[:NEAR]), time.monotonic() + NEAR_SECONDS)

    def all(self, asked: Asked, lanes: Sequence[Lane]) -> None:
        """Plan a move in each lane, and then draw the charts of these."""
        if not self._may(asked):
            return
        end = time.monotonic() + SECONDS
        planned = self._each(asked, self._draft, self._next(lanes), end)
        self._each(asked, self._draw, planned, end)

    # ------------------------------------------------------------------ inside
    def _may(self, asked: Asked) -> bool:
        """The model is there, so that a move costs a simulation, and at most a trace. Where layers are trained, each
        move is long at work in torch, which is not broken off."""
        is_there = self.kept.is_traced(asked.question.model, asked.job)
        return is_there and not any(spec.trains for spec in asked.recipe.modifiers)

    def _next(self, lanes: Sequence[Lane]) -> Iterator[Asked]:
        """Of each lane the nearest that has to be simulated by then, or just the nearest."""
        for lane in lanes:
            nearest = None
            for each in self._read(lane):
                nearest = nearest or each
                if not self._is_known(each):
                    nearest = each
                    break
            if nearest is not None:
                yield nearest

    def _read(self, lane: Lane) -> Iterator[Asked]:
        """The jobs of the lane, as far as they are some: a batch may not be larger than the samples."""
        for question in lane:
            with suppress(PlannerError):
                asked = drafts.read(self.kept, question)
                if self._is_traced_soon(asked):
                    yield asked

    def _is_traced_soon(self, asked: Asked) -> bool:
        model = asked.question.model
        return self.kept.is_traced(model, asked.job) or self.kept.tracing.get(model, float) <= TRACE_SECONDS

    def _is_known(self, asked: Asked) -> bool:
        model = asked.question.model
        return asked.key in self.kept.drafts or self.kept.is_rehearsed(model, asked.recipe, asked.job)

    def _each(self, asked: Asked, make: Callable[[Asked], None], chosen: Iterable[Asked], end: float) -> list[Asked]:
        """Make something of each of these, as far as that is likely to be done by then: it takes what `asked` took.
        Those of which it was made."""
        key, made = (asked.question.model, asked.recipe), list[Asked]()
        for each in chosen:
            if time.monotonic() + self.kept.simulating.get(key, float) > end:
                break
            try:
                self.kept.say("planning the next moves")
                make(each)
            except PlannerError:
                continue  # whoever moves there is told why
            made.append(each)
        return made

    def _draft(self, asked: Asked) -> None:
        drafts.drafted(self.kept, asked)

    def _draw(self, asked: Asked) -> None:
        drafts.pictured(self.kept, asked, drafts.drafted(self.kept, asked))
