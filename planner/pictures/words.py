"""What a report says beside its charts: the verdict, the figures in sentences, the arguments to paste."""

from collections.abc import Iterator, Mapping
from typing import Any

from planner.choose.paste import command_line, library_call
from planner.compress.parts import PART_NAMES, PARTS, part_number
from planner.compress.schema import Plan
from planner.compress.verdicts import verdict
from planner.notes import texts
from planner.recipe.changes import Changes
from planner.reports.advice import advice_line
from planner.reports.demands import missing_line
from planner.reports.summary import SECOND_BRIEFLY, answer, cpu_lines, gpu_lines, header, result_line, second_use


def words(plan: Plan, model: str | None = None, recipe: str | None = None, changes: Changes | None = None) -> Any:
    """The sentences of one plan, by name; `model` and `recipe` as somebody typed them, for what is to be pasted."""
    changes = changes or {}
    typed = model or plan.model.name, recipe or plan.recipe
    return {
        "name": ", ".join(_name(plan)),
        "fits": verdict(plan),
        "verdict": answer(plan),
        "missing": missing_line(plan.demands),
        "advice": advice_line(plan),
        "header": header(plan),
        "gpu": gpu_lines(plan),
        "second_gpu": SECOND_BRIEFLY[second_use(plan)] if plan.second_gpu else "",
        "cpu": cpu_lines(plan),
        "result": result_line(plan),
        "notes": list(texts(plan.notes)),
        "command": command_line("plan", *typed, plan.job, plan.machine, changes),
        "call": library_call(plan, typed[1], plan.job, changes) if plan.script is None else "",
    }


def _name(plan: Plan) -> Iterator[str]:
    yield plan.recipe
    if plan.strategy:
        yield plan.strategy
    if plan.machine and plan.machine.name:
        yield f"on {plan.machine.name}"


def parts_of(plan: Plan) -> Mapping[str, Mapping[str, int]]:
    """The part, by its number, that shows each kind of memory of the plan: for charts of plans without a picture."""
    kinds: dict[str, set[str]] = {"gpu": set(), "cpu": set()}
    for step in plan.steps:
        kinds["gpu"].update(step.gpu.by_kind, step.second_gpu.by_kind if step.second_gpu else ())
        kinds["cpu"].update(step.cpu.by_kind)
    return {device: {kind: part_number(kind, device) for kind in sorted(found)} for device, found in kinds.items()}


PART_LABELS = tuple(PART_NAMES[part] for part in PARTS)
"""The parts in words, in reading order."""
