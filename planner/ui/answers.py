"""Answers one question of the page in lines, what is soonest known first: verdict, plan, picture, strategies."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

from pydantic import BaseModel

from planner.choose.fit import FITTING, Search, ranked
from planner.choose.paste import command_line, library_call
from planner.choose.schema import Choice
from planner.choose.strategies import ASKED, BATCHED
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.schema import Plan
from planner.errors import PlannerError
from planner.hardware.machine import Machine
from planner.job import Job
from planner.notes import Note, texts
from planner.pictures.make import picture_of
from planner.planning import drafted_plan
from planner.recipe.changes import Changes
from planner.recipe.specs import Recipe
from planner.reports.demands import answer_line, demand_line, machine_line, missing_line
from planner.reports.summary import header, result_line
from planner.sizing.demands import judged
from planner.ui.kept import KeptEstimator, Latest, Shelf, Untouched, one_by_one, pasteable
from planner.ui.question import Question

Kind = Literal["progress", "verdict", "plan", "picture", "choice", "strategies", "error", "done", "superseded"]
Answer = Callable[[Question, Collection[str]], Iterator[bytes]]
"""Lines for a question, without those kinds that its page has already."""


def line(kind: Kind, **fields: Any) -> bytes:
    """One line of JSON."""
    parts = (f"{json.dumps(name)}:{_json(value)}" for name, value in fields.items())
    return ("{" + ",".join((f'"kind":"{kind}"', *parts)) + "}\n").encode()


def _json(value: Any) -> str:
    return value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value)


def kind_of(data: bytes) -> str:
    """The kind of a line, without reading all of it."""
    return data[9 : data.index(b'"', 9)].decode()


class Answers:
    """Answers question after question; what it keeps between them is on its shelf."""

    def __init__(self, say: Callable[[str], None], untouched: Untouched = nullcontext) -> None:
        self.shelf = Shelf(say, untouched)
        self.plans: Latest[Plan] = Latest(16)
        self.results: Latest[tuple[Any, tuple[Note, ...]]] = Latest(16)

    def __call__(self, question: Question, has: Collection[str] = ()) -> Iterator[bytes]:
        """The lines. Raises PlannerError for what `plan` would refuse."""
        job, machine = question.asked_job(), question.machine()
        recipe = self._recipe(question)
        key = (question.model, recipe, job)
        yield from self._planned(question, recipe, job, machine, key, has)
        plan = self.plans[key]
        if "picture" not in has:
            yield from self._picture(question, recipe, judged(plan, machine))
        yield from self._strategies(question, recipe, machine)
        yield line("done")

    def _recipe(self, question: Question) -> Recipe:
        recipe = self.shelf.recipe(question.recipe)
        return one_by_one(recipe) if question.one_by_one else recipe

    def _planned(
        self, question: Question, recipe: Recipe, job: Job, machine: Machine, key: Any, has: Collection[str]
    ) -> Iterator[bytes]:
        """The verdict as soon as it is known, then the whole plan."""
        if key not in self.plans:
            graph = self.shelf.graph(question.model, job)
            self.shelf.say(f"planning {recipe.name}")
            drafting = drafted_plan(graph, recipe, job)
            draft = next(drafting)
            if "verdict" not in has:
                yield line("verdict", draft=True, **self._verdict(_as_draft(draft), machine))
            self.shelf.say("looking for the smallest card")
            whole = self._with_result(question, recipe, next(drafting))
            self.plans.get(key, lambda: whole)
        plan = judged(self.plans[key], machine)
        if "plan" not in has:
            paste = self._paste(question, recipe, plan)
            yield line("plan", **self._verdict(plan, machine), **paste, plan=plan)

    def _with_result(self, question: Question, recipe: Recipe, plan: Plan) -> Plan:
        """The plan with what comes out of the job, which is sized once for a model and a recipe."""

        def make() -> tuple[Any, tuple[Note, ...]]:
            from planner.serving.results import with_results

            self.shelf.say("sizing the result")
            built = self.shelf.model(question.model, plan.job.build)
            with self.shelf.untouched():
                (found,) = with_results([plan], [recipe], built)
            return found.result, found.notes[len(plan.notes) :]

        result, notes = self.results.get((question.model, plan.job.build, recipe), make)
        return plan.model_copy(update={"result": result, "notes": (*plan.notes, *notes)})

    def _verdict(self, plan: Plan, machine: Machine) -> dict[str, Any]:
        judged_plan = judged(plan, machine)
        fails = next((note.text for note in plan.notes if note.kind == "fails"), None)
        return {
            "fits": judged_plan.fits,
            "answer": answer_line(judged_plan.fits or "not said", judged_plan.demands, fails),
            "demands": [{**each.model_dump(), "words": demand_line(each)} for each in judged_plan.demands],
            "header": header(plan),
            "machine": machine_line(machine),
        }

    def _paste(self, question: Question, recipe: Recipe, plan: Plan) -> dict[str, Any]:
        """What can be pasted, and the result in words."""
        changes: Changes = {f"{GPTQSpec.type}.{BATCHED}": 1} if question.one_by_one else {}
        model = pasteable(self.shelf.source(question.model))
        return {
            "result": result_line(plan),
            "notes": list(texts(plan.notes)),
            "python": library_call(plan, recipe.name, plan.job, changes),
            "command": command_line("plan", model, recipe.name, plan.job, plan.machine, changes),
        }

    def _picture(self, question: Question, recipe: Recipe, plan: Plan) -> Iterator[bytes]:
        """What charts need beside the plan: the job is walked once more."""
        self.shelf.say("drawing it")
        graph = self.shelf.graph(question.model, plan.job)
        yield line("picture", picture=picture_of(graph, recipe, plan))

    def _strategies(self, question: Question, recipe: Recipe, machine: Machine) -> Iterator[bytes]:
        """Each way to run the job as it is planned, then their order, the best first."""
        self.shelf.say("planning other ways to run it")
        estimator = KeptEstimator(self.shelf, question.model, recipe)
        search = Search(estimator, question.asked_job(), machine)
        found: list[Choice] = []
        for strategy in (ASKED, *search.candidates):
            try:
                choice = estimator.choice(search.asked, strategy, machine, quick=True)
            except PlannerError as error:
                search.refused[strategy.name] = str(error)
                continue
            found.append(choice)
            yield line("choice", choice=choice, missing=_missing_of(choice))
        if all(choice.fits not in FITTING for choice in found):
            self.shelf.say("looking for ways that fit together")
            together = search.quick_combinations()
            found += together
            for choice in together:
                yield line("choice", choice=choice, missing=_missing_of(choice))
        yield line("strategies", order=_order(found), notes=list(texts(search.notes)))


def _as_draft(plan: Plan) -> Plan:
    """The plan as long as its smallest card is not known: judged as if it were all that is reserved."""
    gpu = plan.gpu.model_copy(update={"smallest_card_bytes": plan.gpu.device_total_bytes})
    return plan.model_copy(update={"gpu": gpu})


def _missing_of(choice: Choice) -> str:
    return choice.fails or missing_line(choice.demands)


def _order(choices: Sequence[Choice]) -> list[str]:
    return [choice.strategy for choice in ranked(choices)]
