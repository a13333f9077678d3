"""Answers one question of the page in lines, what is soonest known first: verdict, plan, picture, strategies, cards."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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
from planner.notes import Note, texts
from planner.pictures.make import on_machine, picture_of
from planner.pictures.schema import Picture
from planner.pictures.words import PART_LABELS, parts_of, words
from planner.planning import drafted_plan
from planner.recipe.changes import Changes
from planner.recipe.specs import Recipe
from planner.reports.demands import answer_line, demand_line, missing_line
from planner.reports.summary import header
from planner.sizing.demands import judged
from planner.ui.kept import Kept, KeptEstimator, Latest, Untouched, one_by_one, pasteable
from planner.ui.lines import line
from planner.ui.question import START_MODEL, ModelChoice, PageQuestion

CARDS_SECONDS = 60.0
"""So long smallest cards of other ways are looked for: of a large mixture each takes some seconds."""


class Answers:
    """Answers question after question; what it keeps between them is in `kept`."""

    def __init__(self, say: Callable[[str], None], untouched: Untouched = nullcontext) -> None:
        self.kept = Kept(say, untouched)
        self.plans: Latest[Plan] = Latest(16)
        self.pictures: Latest[Picture | None] = Latest(4)
        self.results: Latest[tuple[Any, tuple[Note, ...]]] = Latest(16)

    def __call__(self, question: PageQuestion, has: Collection[str] = ()) -> Iterator[bytes]:
        """The lines. Raises PlannerError for what `plan` would refuse."""
        machine = question.machine()
        asked = _Asked(question, self._recipe(question).on_gpus(machine.gpus), question.asked_job(), machine)
        is_whole = asked.key in self.plans
        drafting = iter((self.plans[asked.key],)) if is_whole else self._drafting(asked)
        plan = next(drafting)
        if not is_whole and "verdict" not in has:
            yield line("verdict", draft=True, **_verdict(_as_draft(plan), asked.machine))
        plan = self._with_result(asked, plan)
        if "plan" not in has:
            said = self._said(asked, plan if is_whole else _as_draft(plan))
            yield line("plan", draft=not is_whole, vision=self._has_vision(asked), **_outline(plan), **said)
        if "picture" not in has:
            yield from self._picture(asked, judged(plan, asked.machine))
        if not is_whole:
            self.kept.say("looking for the smallest card")
            plan = self._with_result(asked, next(drafting))
            self.plans.get(asked.key, lambda: plan)
        was_draft = not is_whole or "plan" in has  # the page's plan: another page may have made it whole meanwhile
        if was_draft and "smallest" not in has:
            yield line("smallest", **self._said(asked, plan))
        try:
            yield from self._strategies(asked)
        except BaseException:  # broken off, perhaps in the middle of a replay
            self.kept.trials.forget_latest()
            raise
        yield line("done")

    def warm_up(self) -> None:
        """Build and trace what the page begins with, which brings the libraries in."""
        self.kept.graph(ModelChoice(name=START_MODEL), Job())

    def _recipe(self, question: PageQuestion) -> Recipe:
        recipe = self.kept.recipe(question.recipe)
        return one_by_one(recipe) if question.one_by_one else recipe

    def _drafting(self, asked: "_Asked") -> Iterator[Plan]:
        """The plan without its smallest card, then the whole."""
        graph = self.kept.graph(asked.question.model, asked.job)
        self.kept.say(f"planning {asked.recipe.name}")
        bound = self.kept.bound(asked.question.model, asked.recipe, asked.job)
        saved = self.kept.saved(asked.question.model, asked.recipe, asked.job)
        rehearse = self.kept.rehearse(asked.question.model, asked.recipe)
        return drafted_plan(graph, asked.recipe, asked.job, bound, saved, rehearse)

    def _has_vision(self, asked: "_Asked") -> bool:
        return self.kept.graph(asked.question.model, asked.job).total("vision") > 0

    def _said(self, asked: "_Asked", plan: Plan) -> dict[str, Any]:
        """The plan held against the machine, and in words."""
        plan = judged(plan, asked.machine)
        changes: Changes = {f"{GPTQSpec.type}.{BATCHED}": 1} if asked.question.one_by_one else {}
        said = words(plan, pasteable(self.kept.source(asked.question.model)), asked.recipe.name, changes)
        return {**_verdict(plan, asked.machine), "words": said, "plan": plan}

    def _with_result(self, asked: "_Asked", plan: Plan) -> Plan:
        """The plan with what comes out of the job, which is sized once for a model and a recipe."""

        def make() -> tuple[Any, tuple[Note, ...]]:
            from planner.serving.results import with_results

            self.kept.say("sizing the result")
            built = self.kept.model(asked.question.model, plan.job.build)
            with self.kept.untouched():
                (found,) = with_results([plan], [asked.recipe], built)
            return found.result, found.notes[len(plan.notes) :]

        if plan.result is not None:
            return plan
        result, notes = self.results.get((asked.question.model, plan.job.build, asked.recipe), make)
        return plan.model_copy(update={"result": result, "notes": (*plan.notes, *notes)})

    def _picture(self, asked: "_Asked", plan: Plan) -> Iterator[bytes]:
        """What charts need beside the plan: the job is walked once more, for all machines with its card."""

        def make() -> Picture | None:
            self.kept.say("drawing it")
            return picture_of(self.kept.graph(asked.question.model, plan.job), asked.recipe, plan)

        picture = self.pictures.get(asked.key, make)
        entry = {
            "picture": picture and on_machine(picture, plan).model_dump(mode="json", exclude_defaults=True),
            "parts": parts_of(plan),
        }
        yield line("picture", **{**_outline(plan), "entry": entry})

    def _strategies(self, asked: "_Asked") -> Iterator[bytes]:
        """Each way to run the job as it is planned, then their order, the best first, and then their smallest cards."""
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as records."""

    question: PageQuestion
    recipe: Recipe
    job: Job
    machine: Machine

    @property
    def key(self) -> Any:
        """What its plan depends on: of the machine its card, which is in the job."""
        return self.question.model, self.recipe, self.job


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
