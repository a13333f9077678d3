"""Turns what a rehearsal wrote down into the Plan record, method `rehearsed`: every report and the JSON read that."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.compress.schema import (
    CpuPeak,
    CpuStep,
    GpuPeak,
    GpuStep,
    ModelFacts,
    Owned,
    Plan,
    RehearsedScript,
    Step,
    Verdict,
)
from planner.errors import JobError, StoppedError
from planner.job import Job
from planner.notes import Note
from planner.rehearse.allocation import notes_on_rules
from planner.rehearse.cards import notes_on_cards, reported_card
from planner.rehearse.child.settings import CAUSE, RETURNING
from planner.rehearse.events import Told, read_events, read_origins
from planner.rehearse.tape import RecordedTape
from planner.rehearse.trace import NOTHING, HeldThen, Trace

CUDNN = (
    "Convolutions take PyTorch's own kernels: which of cuDNN's would be taken, and what it would need, "
    "is only known on a GPU."
)
ASKS = (
    "The job asks how much of the card is free and acts on it: on a smaller card it may ask for less than was recorded "
    "here, so the smallest card is at most this large."
)
ADVICE = " If reserved but"
"""Here PyTorch's out-of-memory message begins to advise growing segments, which no rehearsal has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """One finished child: where it wrote, and what was asked of it."""

    folder: Path
    script: str
    arguments: tuple[str, ...]
    versions: dict[str, str]
    job: Job
    """The card, and whatever else is known without the script."""
    exit_code: int
    seconds: float
    name: str
    """Of the script, as the user typed it."""
    card: int = 0
    """Number of the process's card."""


def report(done: Rehearsed) -> Plan:
    """The rehearsal as a Plan; of one that stopped early, as far as it came.

    Raises StoppedError where it did not come to the end of any step.
    """
    told = read_events(done.folder / "events.jsonl")
    if not told.steps:
        raise StoppedError(f"{done.name}: the process ended with code {done.exit_code}, without saying why")
    trace = Trace.read(done.folder / "trace.bin", read_origins(done.folder / "origins.jsonl"), done.script)
    card = reported_card(told, done.card, trace.card_that_ran_out)
    steps = _steps(told, trace, card)
    script = _script(done, told, trace.at_end(card))
    job = _job(done.job, told)
    gpu = _gpu_peak(steps, job)
    verdict = _verdict(told, steps, trace.ran_out(card))
    notes = [Note(kind="rehearsal", text=text) for kind, text in dict.fromkeys(told.notes) if kind != CAUSE]
    notes += [*notes_on_cards(told, card, done.card), Note(kind="rehearsal", text=CUDNN)]
    if gpu.peak_reserved_bytes and verdict.outcome != "out of memory":
        gpu = gpu.model_copy(update={"smallest_card_bytes": _smallest(trace, gpu, job, card, verdict.retries)})
        notes += [Note(kind="rehearsal", text=ASKS)] if trace.questions else []
    notes += notes_on_rules(done.versions.get("torch")) if gpu.peak_reserved_bytes else []
    highest = max(steps, key=lambda step: (step.cpu.peak_bytes, -step.index))
    return Plan(
        llmcompressor=done.versions.get("llmcompressor", "not installed"),
        torch=done.versions.get("torch"),
        method="rehearsed",
        recipe=told.jobs[0]["recipe"] if told.jobs else done.name,
        model=_model(told, done.name),
        job=job,
        gpu=gpu,
        cpu=CpuPeak(peak_bytes=highest.cpu.peak_bytes, peak_step=highest.index),
        verdict=verdict,
        steps=tuple(steps),
        script=script,
        notes=tuple(notes),
    )


def _steps(told: Told, trace: Trace, number: int) -> list[Step]:
    """The steps worth a line: one between two others, or of the script, where it is higher than the one before."""
    on_card, on_cpu = trace.at_peaks(number), trace.at_peaks(None)
    steps: list[Step] = []
    empty = ("between", "script")
    for place, event in enumerate(told.steps):
        card, cpu = (helds[place] if place < len(helds) else NOTHING for helds in (on_card, on_cpu))
        is_returning = event["phase"] == RETURNING
        step = _step(
            len(steps), {**event, "phase": "finalize", "unit": "finalize"} if is_returning else event, card, cpu, number
        )
        if is_returning and steps and steps[-1].phase == "finalize":
            steps[-1] = _joined(steps[-1], step)
        elif step.phase in empty and steps and not event["partial"] and _is_covered(step, steps[-1]):
            steps[-1] = _extended(steps[-1], step)
        elif not steps and place + 1 < len(told.steps) and _is_no_news(event, told.steps[place + 1]):
            continue  # what comes before the model is loaded
        else:
            steps.append(step)
    return steps


def _is_no_news(event: dict[str, Any], following: dict[str, Any]) -> bool:
    """A step of the script, without a name, that took nothing, or before the library's first step no more than that."""
    if (event["phase"], event["unit"]) != ("script", "script"):
        return False
    peaks, others = _peaks(event), _peaks(following)
    in_library = following["phase"] != "script"
    return not any(peaks) or (in_library and all(one <= two for one, two in zip(peaks, others, strict=True)))


def _peaks(event: dict[str, Any]) -> list[int]:
    """On the CPU, and on each card."""
    return [event["cpu"]["peak"], *(card["requested"] for card in event["gpus"])]


def _is_covered(step: Step, last: Step) -> bool:
    """The step before was as high; a name that the script gave is shown in any case."""
    if step.phase == "script" and step.unit != "script":
        return False
    return step.gpu.peak_bytes <= last.gpu.peak_bytes and step.cpu.peak_bytes <= last.cpu.peak_bytes


def _extended(last: Step, step: Step) -> Step:
    reserved = max(last.gpu.peak_reserved_bytes or 0, step.gpu.peak_reserved_bytes or 0)
    gpu = {
        "end_bytes": step.gpu.end_bytes,
        "retries": last.gpu.retries + step.gpu.retries,
        "peak_reserved_bytes": reserved,
        "peak_allocated_bytes": max(last.gpu.peak_allocated_bytes, step.gpu.peak_allocated_bytes),
    }
    changes: dict[str, object] = {
        "gpu": last.gpu.model_copy(update=gpu),
        "cpu": last.cpu.model_copy(update={"end_bytes": step.cpu.end_bytes}),
    }
    return last.model_copy(update=changes)


def _joined(last: Step, step: Step) -> Step:
    """Two parts of one step, each side with what was alive at the higher peak."""
    whole = _extended(last, step)
    gpu, cpu = whole.gpu, whole.cpu
    if step.gpu.peak_bytes > last.gpu.peak_bytes:
        names = ("peak_bytes", "by_kind", "largest")
        gpu = gpu.model_copy(update={name: getattr(step.gpu, name) for name in names})
    if step.cpu.peak_bytes > last.cpu.peak_bytes:
        cpu = step.cpu
    return last.model_copy(update={"gpu": gpu, "cpu": cpu})


def _step(index: int, event: dict[str, Any], card: HeldThen, cpu: HeldThen, number: int) -> Step:
    second = event["gpus"][1] if len(event["gpus"]) == 2 and number == 0 else None
    return Step(
        index=index,
        modifier=event["modifier"],
        subgraph=event["subgraph"],
        of=event["of"],
        phase=event["phase"],
        unit=event["unit"],
        exact=True,
        gpu=_gpu_step(event["gpus"][number], card),
        second_gpu=_gpu_step(second, NOTHING) if second and second["requested"] else None,
        cpu=CpuStep(
            peak_bytes=event["cpu"]["peak"],
            end_bytes=event["cpu"]["end"],
            by_kind=_parts(cpu, event["cpu"]["peak"]),
            largest=cpu.largest,
        ),
    )


def _gpu_step(figures: dict[str, int], held: HeldThen) -> GpuStep:
    return GpuStep(
        peak_bytes=figures["requested"],
        peak_allocated_bytes=figures["allocated"],
        peak_reserved_bytes=figures["reserved"],
        retries=figures["retries"],
        end_bytes=figures["end"],
        by_kind=_parts(held, figures["requested"]),
        largest=held.largest,
    )


def _parts(held: HeldThen, peak: int) -> dict[str, int]:
    """The kinds of what was alive; what was not traced (small CPU tensors) is other."""
    parts = dict(held.by_kind)
    if peak != held.bytes:
        parts["other"] = parts.get("other", 0) + peak - held.bytes
    return {kind: nbytes for kind, nbytes in parts.items() if nbytes}


def _gpu_peak(steps: Sequence[Step], job: Job) -> GpuPeak:
    highest = max(steps, key=lambda step: (step.gpu.peak_bytes, -step.index))
    reserved = max(step.gpu.peak_reserved_bytes or 0 for step in steps)
    return GpuPeak(
        peak_bytes=highest.gpu.peak_bytes,
        peak_allocated_bytes=max(step.gpu.peak_allocated_bytes for step in steps),
        peak_reserved_bytes=reserved,
        context_bytes=job.cuda_context_bytes,
        device_total_bytes=reserved + job.cuda_context_bytes,
        peak_step=highest.index,
    )


def _smallest(trace: Trace, gpu: GpuPeak, job: Job, card: int, retries: int) -> int:
    context = job.cuda_context_bytes
    start, least = (gpu.peak_reserved_bytes or 0) + context, gpu.peak_bytes + context
    tape = RecordedTape(trace, card)
    return tape.smallest(start, min(least, start - 1), context, job.allocator_settings, is_known=not retries)


def _verdict(told: Told, steps: Sequence[Step], ran_out: tuple[int, int] | None) -> Verdict:
    retries = sum(step.gpu.retries for step in steps)
    if told.end.get("how") != "out of memory":
        return Verdict(outcome="gives back" if retries else "through", retries=retries)
    return Verdict(
        outcome="out of memory",
        retries=retries,
        step=steps[-1].index,
        asked_bytes=ran_out[0] if ran_out else None,
        free_bytes=ran_out[1] if ran_out else None,
    )


def _script(done: Rehearsed, told: Told, at_end: HeldThen) -> RehearsedScript:
    end = told.end
    held: tuple[Owned, ...] = at_end.largest if end.get("how") == "out of memory" else ()
    return RehearsedScript(
        path=done.name,
        arguments=done.arguments,
        versions=done.versions,
        has_job=bool(told.jobs),
        exit_code=end.get("code", done.exit_code),
        ended=end.get("how", "died"),
        line=end.get("line") or None,
        stopped=_stopped(told),
        held=held,
        seconds=round(done.seconds, 1),
        resident_bytes=end.get("resident"),
    )


def _stopped(told: Told) -> str | None:
    """What the script ended with, and after a failure what may have been its cause."""
    text = str(told.end.get("text", "")).partition(ADVICE)[0]
    causes = [note for kind, note in told.notes if kind == CAUSE and told.end.get("how") == "failed"]
    return "; ".join(filter(None, [text, *causes])) or None


def _job(job: Job, told: Told) -> Job:
    """The job with what the script's first oneshot asked for."""
    values = job.model_dump(exclude_unset=True)
    for name, value in (told.jobs[0] if told.jobs else {}).items():
        if name != "recipe" and value is not None:
            values[name] = value.replace("cuda", "gpu") if name == "offload_device" else value
    if told.models:
        values["dtype"] = told.models[-1]["dtype"]
    try:
        return Job.model_validate(values)
    except (JobError, ValueError):  # words of another release
        return job


def _model(told: Told, name: str) -> ModelFacts:
    model = told.models[-1] if told.models else {"name": name, "architecture": "script", "parameters": 0, "bytes": 0}
    facts: dict[str, Any] = {key: model[key] for key in ("name", "architecture", "parameters", "bytes")}
    return ModelFacts(**facts, not_loaded_parameters=0)
