"""Plans and steps that reports are drawn from."""

from pathlib import Path

from planner.compress.holdings import Owner
from planner.compress.schema import CpuPeak, CpuStep, GpuPeak, GpuStep, Owned, Plan, Step
from planner.units import GIB

DATA = Path(__file__).parents[1] / "data" / "plans"


def load(name: str) -> Plan:
    return Plan.model_validate_json((DATA / f"{name}.json").read_text(encoding="utf-8"))


def with_memory(plan: Plan, count: int) -> Plan:
    return plan.model_copy(update={"job": plan.job.model_copy(update={"gpu_memory_bytes": count})})


def with_job(plan: Plan, **options: object) -> Plan:
    return plan.model_copy(update={"job": plan.job.model_copy(update=options)})


def step(
    unit: str = "model.layers.0",
    by_kind: dict[str, int] | None = None,
    *,
    experts: bool = False,
    copies: int = 1,
    **fields: object,
) -> Step:
    kinds = {"weights": GIB} if by_kind is None else by_kind
    peak = sum(kinds.values())
    share = 256 if experts else 1
    largest = tuple(Owned.of(Owner(unit, kind, copies), kind, count // share) for kind, count in kinds.items())
    record = {
        "index": 0,
        "modifier": "GPTQModifier",
        "subgraph": 2,
        "of": 3,
        "phase": "compress",
        "unit": unit,
        "exact": True,
        "gpu": GpuStep(peak_bytes=peak, peak_allocated_bytes=peak, end_bytes=0, by_kind=kinds, largest=largest),
        "cpu": CpuStep(peak_bytes=GIB, end_bytes=GIB, by_kind={"model": GIB}, largest=()),
    }
    return Step.model_validate(record | fields)


def planned(plan: Plan, *steps: Step) -> Plan:
    """The plan with other steps, and the peaks that follow from them."""
    numbered = tuple(each.model_copy(update={"index": index}) for index, each in enumerate(steps))
    gpu = max(numbered, key=lambda each: each.gpu.peak_bytes)
    cpu = max(numbered, key=lambda each: each.cpu.peak_bytes)
    return plan.model_copy(
        update={
            "steps": numbered,
            "gpu": GpuPeak(
                peak_bytes=gpu.gpu.peak_bytes, peak_allocated_bytes=gpu.gpu.peak_allocated_bytes, peak_step=gpu.index
            ),
            "cpu": CpuPeak(peak_bytes=cpu.cpu.peak_bytes, peak_step=cpu.index),
        }
    )


def subgraph(number: int, unit: str, by_kind: dict[str, int], **fields: object) -> list[Step]:
    phases = ("calibrate", "compress", "propagate")
    return [step(unit, by_kind, subgraph=number, phase=phase, **fields) for phase in phases]
