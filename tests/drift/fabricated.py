"""Plans made up for comparisons: each step has what the test says and nothing else."""

from typing import Any

from planner.compress.schema import CpuPeak, CpuStep, GpuPeak, GpuStep, ModelFacts, Owned, Plan, Step
from planner.job import Job
from planner.units import MIB

GPTQ = "GPTQModifier"


def held(name: str, kind: str, nbytes: int, *, role: str = "", copies: int = 1) -> Owned:
    text = f"{name} {role}".strip() + (f" ({copies} tensors)" if copies > 1 else "")
    return Owned(owner=text, name=name, role=role, copies=copies, kind=kind, bytes=nbytes)


def step(
    phase: Any,
    gpu: dict[str, int],
    *,
    subgraph: int | None = None,
    reserved: int | None = None,
    cpu: dict[str, int] | None = None,
    largest: tuple[Owned, ...] = (),
    modifier: str | None = GPTQ,
) -> Step:
    """Kinds and their MiB."""
    on_card, on_cpu = ({kind: mib * MIB for kind, mib in kinds.items()} for kinds in (gpu, cpu or {"model": 1000}))
    peak = sum(on_card.values())
    return Step(
        index=0,
        modifier=modifier,
        subgraph=subgraph,
        of=3 if subgraph else None,
        phase=phase,
        unit=phase,
        exact=True,
        gpu=GpuStep(
            peak_bytes=peak,
            peak_allocated_bytes=peak,
            peak_reserved_bytes=peak if reserved is None else reserved * MIB,
            end_bytes=0,
            by_kind=on_card,
            largest=largest,
        ),
        cpu=CpuStep(peak_bytes=sum(on_cpu.values()), end_bytes=0, by_kind=on_cpu, largest=()),
    )


def plan(*steps: Step) -> Plan:
    return Plan(
        recipe="gptq_w4a16",
        model=ModelFacts(name="tiny", architecture="Tiny", parameters=1, bytes=2, not_loaded_parameters=0),
        job=Job(),
        gpu=GpuPeak(peak_bytes=0, peak_allocated_bytes=0, peak_step=0),
        cpu=CpuPeak(peak_bytes=0, peak_step=0),
        notes=(),
        steps=tuple(each.model_copy(update={"index": index}) for index, each in enumerate(steps)),
    )
