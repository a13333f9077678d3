"""Answers one question of the page in lines, what is soonest known first: verdict, plan, picture, strategies, cards."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from planner.choose.estimator import Estimator
from planner.choose.fit import FITTING, Search, on_idle, ranked, without_idle
from planner.choose.schema import Choice
from planner.choose.strategies import ASKED, BATCHED, strategy_of
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.schema import Plan
from planner.errors import PlannerError
from planner.hardware.machine import Machine
from planner.job import Job
from planner.notes import texts
from planner.pictures.make import on_machine
from planner.pictures.words import PART_LABELS, parts_of, words
from planner.recipe.changes import Changes
from planner.reports.demands import answer_line, demand_line, missing_line
from planner.reports.summary import header
from planner.sizing.demands import judged
from planner.ui.ahead import Ahead
from planner.ui.drafts import Asked, completed, drafted, pictured, read, with_result
from planner.ui.kept import Drafted, Kept, KeptEstimator, Untouched, pasteable
from planner.ui.lines import line
from planner.ui.moves import Lane
from planner.ui.question import START_MODEL, ModelChoice, PageQuestion

CARDS_SECONDS = 60.0
"""So long smallest cards of other ways are looked for: of a large mixture each takes some seconds."""


class Answers:
    """Answers question after question; what it keeps between them is in `kept`."""

    def __init__(self, say: Callable[[str], None], untouched: Untouched = nullcontext) -> None:
        self.kept = Kept(say, untouched)
        self.ahead = Ahead(self.kept)

    def __call__(self, question: PageQuestion, has: Collection[str] = ()) -> Iterator[bytes]:
        """The lines. Raises PlannerError for what `plan` would refuse."""
        asked, lanes = read(self.kept, question), self.ahead.lanes(question)
        found = drafted(self.kept, asked)
        is_whole = found.is_whole
        if not is_whole and "verdict" not in has:
            yield line("verdict", draft=True, **_verdict(_as_draft(found.plan), asked.machine))
        plan = with_result(self.kept, asked, found.plan)
        if "plan" not in has:
            said = self._said(asked, plan if is_whole else _as_draft(plan))
            yield line("plan", draft=not is_whole, vision=self._has_vision(asked), **_outline(plan), **said)
        if "picture" not in has:
            yield self._picture(asked, found, judged(plan, asked.machine))
        self.ahead.near(asked, lanes)
        if not is_whole:
            self.kept.say("looking for the smallest card")
            plan = with_result(self.kept, asked, completed(self.kept, asked).plan)
        was_draft = not is_whole or "plan" in has  # the page's plan: another page may have made it whole meanwhile
        if was_draft and "smallest" not in has:
            yield line("smallest", **self._said(asked, plan))
        yield from self._others(asked, lanes, is_misfit=judged(plan, asked.machine).fits == "no")
        yield line("done")

    def warm_up(self) -> None:
        """Build and trace what the page begins with, which brings the libraries in."""
        self.kept.graph(ModelChoice(name=START_MODEL), Job())

    def _has_vision(self, asked: Asked) -> bool:
        return self.kept.graph(asked.question.model, asked.job).total("vision") > 0

    def _said(self, asked: Asked, plan: Plan) -> dict[str, Any]:
        """The plan held against the machine, and in words."""
        plan = judged(plan, asked.machine)
        changes: Changes = {f"{GPTQSpec.type}.{BATCHED}": 1} if asked.question.one_by_one else {}
        said = words(plan, pasteable(self.kept.source(asked.question.model)), asked.recipe.name, changes)
        return {**_verdict(plan, asked.machine), "words": said, "plan": plan}

    def _picture(self, asked: Asked, found: Drafted, plan: Plan) -> bytes:
        """What charts need beside the plan, with the lines of its machine."""
        picture = pictured(self.kept, asked, found)
        entry = {
            "picture": picture and on_machine(picture, plan).model_dump(mode="json", exclude_defaults=True),
            "parts": parts_of(plan),
        }
        return line("picture", **{**_outline(plan), "entry": entry})

    def _others(self, asked: Asked, lanes: Sequence[Lane], *, is_misfit: bool) -> Iterator[bytes]:
        """Other ways to run it, and before them the next moves; but who is told that it does not fit waits for a way
        that does, and there only the smallest cards of the ways come after the moves."""
        if not is_misfit:
            self.ahead.all(asked, lanes)
        try:
            yield from self._strategies(asked, meanwhile=lanes if is_misfit else ())
        except BaseException:  # broken off, perhaps in the middle of a replay
            self.kept.trials.forget_latest()
            raise

    def _strategies(self, asked: Asked, meanwhile: Sequence[Lane]) -> Iterator[bytes]:
        """Each way to run the job as it is planned, then their order, the best first, and then their smallest cards.

        `meanwhile`: what is planned ahead before these.
        """
        self.kept.say("planning other ways to run it")
        estimator = KeptEstimator(self.kept, asked.question.model, asked.recipe)
        search = Search(estimator, asked.job, asked.machine)
        found: list[Choice] = []
        for strategy in (ASKED, *search.candidates):
            try:
                choice = estimator.choice(search.asked, strategy, asked.machine, quick=True)
            except PlannerError as error:
                search.refused[strategy.name] = str(error)
                continue
            found.append(choice)
            yield line("choice", choice=choice, missing=_missing_of(choice))
        if all(choice.fits not in FITTING for choice in found):
            self.kept.say("looking for ways that fit together")
            together = search.quick_combinations()
            found += together
            for choice in together:
                yield line("choice", choice=choice, missing=_missing_of(choice))
        yield line("strategies", order=_order(found))
        self.ahead.all(asked, meanwhile)
        yield from self._cards(estimator, search, ranked(found))

    def _cards(self, estimator: Estimator, search: Search, choices: Sequence[Choice]) -> Iterator[bytes]:
        """All that is known once their smallest cards are, as far as time goes: whether they fit may be otherwise than
        in a shorter walk. Then their order again, and which of them change nothing."""
        end = time.monotonic() + CARDS_SECONDS
        exact: dict[str, Choice] = {}
        for choice in choices:
            if time.monotonic() > end:
                break
            self.kept.say(f"looking for the smallest card: {choice.strategy}")
            strategy = strategy_of(choice)
            found = exact[choice.strategy] = estimator.choice(search.asked, strategy, search.machine)
            card = estimator.trial(search.asked, strategy).smallest_card
            yield line("card", choice=found, bytes=card, missing=_missing_of(found))
        yield line("strategies", order=_order([exact.get(each.strategy, each) for each in choices]))
        if asked := exact.pop(ASKED.name, None):
            _, idle = without_idle((asked, *exact.values()))
            yield line("idle", names=idle, notes=list(texts(tuple(on_idle(idle)))))


def _verdict(plan: Plan, machine: Machine) -> dict[str, Any]:
    """What the machine says to the plan."""
    plan = judged(plan, machine)
    fails = next((note.text for note in plan.notes if note.kind == "fails"), None)
    return {
        "fits": plan.fits,
        "answer": answer_line(plan.fits or "not said", plan.demands, fails),
        "demands": [{**each.model_dump(), "words": demand_line(each)} for each in plan.demands],
        "header": header(plan),
    }


def _outline(plan: Plan) -> dict[str, Any]:
    """What a chart of the plan alone needs beside it: steps by their peaks."""
    return {"entry": {"parts": parts_of(plan)}, "options": {"parts": PART_LABELS}}


def _as_draft(plan: Plan) -> Plan:
    """The plan as long as its smallest card is not known: judged as if it were all that is reserved."""
    gpu = plan.gpu.model_copy(update={"smallest_card_bytes": plan.gpu.device_total_bytes})
    return plan.model_copy(update={"gpu": gpu})


def _missing_of(choice: Choice) -> str:
    return choice.fails or missing_line(choice.demands)


def _order(choices: Sequence[Choice]) -> list[str]:
    return [choice.strategy for choice in ranked(choices)]
