"""Turns a simulated job into the Plan record that readers get."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.compress.fit import Attempt, Rehearsal
from planner.compress.holdings import Owner, Peak
from planner.compress.program import Outcome, Program, StepMemory
from planner.compress.rule_of_thumb import rule_of_thumb
from planner.compress.schema import (
    CpuPeak,
    CpuStep,
    DiskFacts,
    GpuPeak,
    GpuStep,
    ModelFacts,
    Owned,
    Plan,
    RuleOfThumb,
    Step,
    Verdict,
)
from planner.cuda.build import CudaBuild
from planner.job import Job
from planner.notes import Note
from planner.recipe.specs import Recipe

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph


def _rule(graph: "ModelGraph", recipe: Recipe) -> RuleOfThumb:
    return rule_of_thumb(
        checkpoint_parameters=graph.checkpoint_parameters,
        text_layer_parameters=graph.layer_parameters,
        vision_tower_parameters=graph.total("vision"),
        has_hessians=any(spec.has_hessians for spec in recipe.modifiers),
    )


def _facts(graph: "ModelGraph") -> ModelFacts:
    return ModelFacts(
        name=graph.name,
        architecture=graph.architecture,
        parameters=graph.parameters,
        bytes=graph.bytes,
        not_loaded_parameters=graph.not_loaded_parameters,
    )


def plan_on_card(graph: "ModelGraph", recipe: Recipe, rehearsal: Rehearsal, notes: Sequence[Note]) -> Plan:
    """The job on its card as a Plan: what the allocator held there, or on a card with room if it ran out of memory."""
    job = rehearsal.job
    tried = rehearsal.on(job.gpu_memory_bytes)
    shown = tried if tried.ran_out is None else rehearsal.roomy
    plan = simulated_plan(graph, recipe, job, Outcome(steps=list(shown.steps)), [*notes, *rehearsal.notes])
    reserved = max((step.gpu.peak_reserved_bytes or 0 for step in plan.steps), default=0)
    gpu = plan.gpu.model_copy(
        update={
            "peak_reserved_bytes": reserved,
            "context_bytes": rehearsal.context_bytes,
            "device_total_bytes": reserved + rehearsal.context_bytes,
            "smallest_card_bytes": rehearsal.smallest() if reserved else None,
        }
    )
    return plan.model_copy(update={"gpu": gpu, "verdict": _verdict(tried), "torch": CudaBuild().torch})


def disk_facts(program: Program) -> DiskFacts | None:
    """What the job reads from the disk and writes there; None where no weights stay on it."""
    if not program.disk_bytes:
        return None
    return DiskFacts(weights_bytes=program.disk_bytes, written_bytes=program.disk_written_bytes)


def _verdict(tried: Attempt) -> Verdict:
    error = tried.ran_out
    if error is None:
        return Verdict(outcome="gives back" if tried.retries else "through", retries=tried.retries)
    return Verdict(
        outcome="out of memory",
        retries=tried.retries,
        step=error.step,
        asked_bytes=error.asked,
        free_bytes=error.free,
    )


def simulated_plan(graph: "ModelGraph", recipe: Recipe, job: Job, outcome: Outcome, notes: Sequence[Note]) -> Plan:
    """The simulated job as a Plan; of equal notes only one is kept."""
    steps = tuple(_step(index, step) for index, step in enumerate(outcome.steps))
    gpu = max(steps, key=lambda s: (s.gpu.peak_bytes, -s.index))
    cpu = max(steps, key=lambda s: (s.cpu.peak_bytes, -s.index))
    return Plan(
        recipe=recipe.name,
        model=_facts(graph),
        job=job,
        gpu=GpuPeak(
            peak_bytes=gpu.gpu.peak_bytes,
            peak_allocated_bytes=max(s.gpu.peak_allocated_bytes for s in steps),
            peak_step=gpu.index,
        ),
        cpu=CpuPeak(peak_bytes=cpu.cpu.peak_bytes, peak_step=cpu.index),
        steps=steps,
        rule_of_thumb=_rule(graph, recipe),
        notes=tuple(dict.fromkeys(notes)),
    )


def _step(index: int, step: StepMemory) -> Step:
    return Step(
        index=index,
        modifier=step.modifier,
        subgraph=step.subgraph,
        of=step.of,
        phase=step.phase,  # type: ignore[arg-type]  # the pipelines close steps with the contract's phases
        unit=step.unit,
        exact=step.exact,
        moved_to_gpu_bytes=step.moved.to_gpu,
        moved_from_gpu_bytes=step.moved.to_cpu,
        gpu=GpuStep(
            peak_bytes=step.gpu.bytes,
            peak_allocated_bytes=step.gpu.allocated,
            peak_reserved_bytes=step.gpu.held.reserved if step.gpu.held else None,
            retries=step.gpu.held.retries if step.gpu.held else 0,
            end_bytes=step.gpu.end,
            by_kind=step.gpu.by_kind,
            largest=_owned(step.gpu),
        ),
        cpu=CpuStep(
            peak_bytes=step.cpu.bytes, end_bytes=step.cpu.end, by_kind=step.cpu.by_kind, largest=_owned(step.cpu)
        ),
    )


def _owned(peak: Peak) -> tuple[Owned, ...]:
    return tuple(Owned.of(h.owner, h.kind, h.bytes) for h in peak.largest)


def rule_plan(graph: "ModelGraph", recipe: Recipe, job: Job, notes: Sequence[Note]) -> Plan:
    """The documented rule as a plan of one step."""
    rule = _rule(graph, recipe)
    note = Note(
        kind="estimate",
        text="The documented rule of thumb counts weights alone: no activations, caches, temporaries or data.",
    )
    gpu = GpuStep(
        peak_bytes=rule.gpu_bytes,
        peak_allocated_bytes=rule.gpu_bytes,
        end_bytes=0,
        by_kind={"weights": rule.gpu_bytes},
        largest=(Owned.of(Owner("one layer or the vision tower"), "weights", rule.gpu_bytes),),
    )
    cpu = CpuStep(
        peak_bytes=rule.cpu_bytes,
        end_bytes=rule.cpu_bytes,
        by_kind={"model": rule.cpu_bytes},
        largest=(Owned.of(Owner("model weights"), "model", rule.cpu_bytes),),
    )
    step = Step(
        index=0,
        modifier=None,
        subgraph=None,
        of=None,
        phase="calibrate",
        unit="rule of thumb",
        exact=False,
        gpu=gpu,
        cpu=cpu,
    )
    return Plan(
        method="rule-of-thumb",
        recipe=recipe.name,
        model=_facts(graph),
        job=job,
        gpu=GpuPeak(peak_bytes=rule.gpu_bytes, peak_allocated_bytes=rule.gpu_bytes, peak_step=0),
        cpu=CpuPeak(peak_bytes=rule.cpu_bytes, peak_step=0),
        steps=(step,),
        rule_of_thumb=rule,
        notes=(note, *dict.fromkeys(notes)),
    )
