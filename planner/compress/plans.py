"""Turns a simulated job into the Plan record that readers get."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from planner.compress.fit import Attempt, Rehearsal, SecondCard
from planner.compress.holdings import Owner, Peak
from planner.compress.program import Outcome, Program, StepMemory
from planner.compress.ranks import Rank
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
    RankFacts,
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


def plan_on_card(
    graph: "ModelGraph", recipe: Recipe, rehearsal: Rehearsal, notes: Sequence[Note], *, with_smallest: bool = True
) -> Plan:
    """The job on its card as a Plan: what the allocator held there, or on a card with room if it ran out of memory.

    The smallest card takes most of the time; `with_smallest=False` leaves it out.
    """
    job = rehearsal.job
    tried = rehearsal.on(job.gpu_memory_bytes)
    shown = tried if tried.ran_out is None else rehearsal.roomy
    plan = simulated_plan(graph, recipe, job, Outcome(steps=list(shown.steps)), [*notes, *rehearsal.notes])
    gpu = _with_card(plan.gpu, _reserved(step.gpu for step in plan.steps), rehearsal.context_bytes)
    smallest = rehearsal.smallest() if with_smallest and gpu.peak_reserved_bytes else None
    second = rehearsal.second_on(job.gpu_memory_bytes)
    changes: dict[str, object] = {
        "gpu": gpu.model_copy(update={"smallest_card_bytes": smallest}),
        "verdict": _verdict(tried, second),
        "torch": CudaBuild().torch,
    }
    if plan.second_gpu is not None:
        reserved = _reserved(step.second_gpu for step in plan.steps if step.second_gpu)
        peak = _with_card(plan.second_gpu, reserved, rehearsal.context_bytes)
        changes["second_gpu"] = peak.model_copy(update={"smallest_card_bytes": rehearsal.smallest_second()})
    return plan.model_copy(update=changes)


def _reserved(steps: Iterable[GpuStep]) -> int:
    return max((step.peak_reserved_bytes or 0 for step in steps), default=0)


def _with_card(peak: GpuPeak, reserved: int, context: int) -> GpuPeak:
    """The peak with what the allocator and the CUDA context hold of the card."""
    return peak.model_copy(
        update={
            "peak_reserved_bytes": reserved,
            "context_bytes": context,
            "device_total_bytes": reserved + context,
        }
    )


def rank_facts(rank: Rank | None, steps: Sequence[StepMemory]) -> RankFacts | None:
    """What all ranks take of the CPU: they share weights and qparams, and each has all else of its own.

    The rank that is simulated has as many samples as any. None for one process.
    """
    if rank is None:
        return None
    own = (step.shared_cpu + rank.of * (step.cpu.bytes - step.shared_cpu) for step in steps)
    shared = max(step.shared_cpu for step in steps)
    return RankFacts(simulated=rank.number, shared_bytes=shared, all_bytes=max(own))


def placement_facts(program: Program, rank: Rank | None, steps: Sequence[StepMemory]) -> dict[str, object]:
    """What a plan says of weights on the disk, of several ranks and of other cards, as its fields."""
    return {
        "weights_on_disk": disk_facts(program),
        "ranks": rank_facts(rank, steps),
        "other_gpus": program.other_gpus,
    }


def disk_facts(program: Program) -> DiskFacts | None:
    """What the job reads from the disk and writes there; None where no weights stay on it."""
    if not program.disk_bytes:
        return None
    return DiskFacts(weights_bytes=program.disk_bytes, written_bytes=program.disk_written_bytes)


def _verdict(tried: Attempt, second: SecondCard | None) -> Verdict:
    """What happens on cards of the job's size; of two that run out, the first one counts."""
    there = second.retries if second else 0
    retries = tried.retries + there
    errors = [(tried.ran_out, 0), (second.ran_out if second else None, 1)]
    ran_out = [(error, number) for error, number in errors if error is not None]
    if not ran_out:
        return Verdict(outcome="gives back" if retries else "through", retries=retries, second_retries=there)
    error, number = min(ran_out, key=lambda each: each[0].step)
    return Verdict(
        outcome="out of memory",
        retries=retries,
        second_retries=there,
        gpu=1 if number else 0,
        step=error.step,
        asked_bytes=error.asked,
        free_bytes=error.free,
    )


def simulated_plan(graph: "ModelGraph", recipe: Recipe, job: Job, outcome: Outcome, notes: Sequence[Note]) -> Plan:
    """The simulated job as a Plan; of equal notes only one is kept."""
    steps = tuple(_step(index, step) for index, step in enumerate(outcome.steps))
    cpu = max(steps, key=lambda s: (s.cpu.peak_bytes, -s.index))
    second = {step.index: step.second_gpu for step in steps if step.second_gpu is not None}
    return Plan(
        recipe=recipe.name,
        model=_facts(graph),
        job=job,
        gpu=_gpu_peak({step.index: step.gpu for step in steps}),
        cpu=CpuPeak(peak_bytes=cpu.cpu.peak_bytes, peak_step=cpu.index),
        second_gpu=_gpu_peak(second) if second else None,
        steps=steps,
        rule_of_thumb=_rule(graph, recipe),
        notes=tuple(dict.fromkeys(notes)),
    )


def _gpu_peak(steps: Mapping[int, GpuStep]) -> GpuPeak:
    """The highest of these steps by their numbers; of equal ones the first."""
    highest = max(steps, key=lambda index: (steps[index].peak_bytes, -index))
    return GpuPeak(
        peak_bytes=steps[highest].peak_bytes,
        peak_allocated_bytes=max(step.peak_allocated_bytes for step in steps.values()),
        peak_step=highest,
    )


def _step(index: int, step: StepMemory) -> Step:
    return Step(
        index=index,
        modifier=step.modifier,
        subgraph=step.subgraph,
        of=step.of,
        phase=step.phase,
        unit=step.unit,
        exact=step.exact,
        moved_to_gpu_bytes=step.moved.to_gpu,
        moved_from_gpu_bytes=step.moved.to_cpu,
        gpu=_gpu_step(step.gpu),
        cpu=CpuStep(
            peak_bytes=step.cpu.bytes, end_bytes=step.cpu.end, by_kind=step.cpu.by_kind, largest=_owned(step.cpu)
        ),
        second_gpu=_gpu_step(step.second_gpu) if step.second_gpu else None,
    )


def _gpu_step(peak: Peak) -> GpuStep:
    return GpuStep(
        peak_bytes=peak.bytes,
        peak_allocated_bytes=peak.allocated,
        peak_reserved_bytes=peak.held.reserved if peak.held else None,
        retries=peak.held.retries if peak.held else 0,
        end_bytes=peak.end,
        by_kind=peak.by_kind,
        largest=_owned(peak),
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
