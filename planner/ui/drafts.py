"""What is made for one question of the page, each from what is kept or anew: plan, smallest card, picture, result."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from planner.choose.estimator import without_card
from planner.compress.oneshot import heaviest_rank
from planner.compress.schema import Plan
from planner.hardware.machine import Machine
from planner.job import Job
from planner.notes import Note
from planner.pictures.make import picture_of
from planner.pictures.schema import Picture
from planner.planning import Draft, drafted_plan, with_smallest
from planner.recipe.specs import Recipe
from planner.ui.kept import Drafted, Kept, one_by_one
from planner.ui.question import PageQuestion


@dataclass(frozen=True)
class Asked:
    """A question as records."""

    question: PageQuestion
    recipe: Recipe
    job: Job
    machine: Machine

    @cached_property
    def key(self) -> Hashable:
        """What its plan depends on: of the machine its card, which is in the job."""
        return self.question.model, self.recipe, self.job

    @cached_property
    def but_card(self) -> Hashable:
        """What its smallest card depends on: not on the size of the card that there is."""
        return self.question.model, self.recipe, without_card(self.job, self.recipe)


def read(kept: Kept, question: PageQuestion) -> Asked:
    """The question as records. Raises PlannerError for a card, a job or a recipe that is none."""
    recipe = kept.recipe(question.recipe)
    recipe, machine = one_by_one(recipe) if question.one_by_one else recipe, question.machine()
    return Asked(question, recipe.on_gpus(machine.gpus), question.asked_job(), machine)


def drafted(kept: Kept, asked: Asked) -> Drafted:
    """The plan without its smallest card, or with it where that is known by now. Raises what `plan` raises."""
    found = kept.drafts.get(asked.key, lambda: _drafted(kept, asked))
    if not found.is_whole and asked.but_card in kept.smallest:
        found = _with_smallest(kept, asked, found, kept.smallest[asked.but_card])
    return found


def completed(kept: Kept, asked: Asked) -> Drafted:
    """The plan with its smallest card."""
    found = drafted(kept, asked)
    if found.is_whole:
        return found
    program, _ = kept.bound(asked.question.model, asked.recipe, asked.job)
    rehearse = kept.rehearse(asked.question.model, asked.recipe)
    rehearsal = rehearse(program, asked.job, rank=heaviest_rank(program, asked.job))
    smallest = Draft(found.plan, rehearsal).whole().gpu.smallest_card_bytes
    kept.smallest.put(asked.but_card, smallest)
    return _with_smallest(kept, asked, found, smallest)


def pictured(kept: Kept, asked: Asked, found: Drafted) -> Picture | None:
    """What charts need beside the plan: the job is walked once more, for all cards on which it goes alike."""

    def make() -> Picture | None:
        kept.say("drawing it")
        bound = kept.bound(asked.question.model, asked.recipe, asked.job)
        return picture_of(kept.graph(asked.question.model, asked.job), asked.recipe, found.plan, bound)

    return kept.pictures.get(found.pictured_as, make)


def with_result(kept: Kept, asked: Asked, plan: Plan) -> Plan:
    """The plan with what comes out of the job, which is sized once for a model and a recipe."""

    def make() -> tuple[Any, tuple[Note, ...]]:
        from planner.serving.results import with_results

        kept.say("sizing the result")
        built = kept.model(asked.question.model, plan.job.build)
        with kept.untouched():
            (found,) = with_results([plan], [asked.recipe], built)
        return found.result, found.notes[len(plan.notes) :]

    result, notes = kept.results.get((asked.question.model, plan.job.build, asked.recipe), make)
    return plan.model_copy(update={"result": result, "notes": (*plan.notes, *notes)})


def _drafted(kept: Kept, asked: Asked) -> Drafted:
    model, recipe = asked.question.model, asked.recipe
    graph = kept.graph(model, asked.job)
    kept.say(f"planning {recipe.name}")
    bound, saved = kept.bound(model, recipe, asked.job), kept.saved(model, recipe, asked.job)
    draft = drafted_plan(graph, recipe, asked.job, bound, saved, kept.rehearse(model, recipe))
    return Drafted(draft.plan, is_whole=False, pictured_as=_pictured_as(asked, draft))


def _pictured_as(asked: Asked, draft: Draft) -> Hashable:
    """A job that is told the same on two cards does the same there, unless one of them gives cached memory back; where
    it runs out, what is shown is a card with room that says what this one says."""
    told, verdict = draft.rehearsal.told, draft.plan.verdict
    is_its_own = told is None or verdict is None or verdict.outcome == "gives back"
    return asked.key if is_its_own else (asked.but_card, told, verdict and verdict.outcome)


def _with_smallest(kept: Kept, asked: Asked, found: Drafted, smallest: int | None) -> Drafted:
    whole = replace(found, plan=with_smallest(found.plan, smallest), is_whole=True)
    kept.drafts.put(asked.key, whole)
    return whole
