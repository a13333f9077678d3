"""A torchrun job: every rank is rehearsed on its own, and the report is that of the one whose card takes most."""

from collections.abc import Sequence

from planner.compress.schema import Plan, RankFacts
from planner.notes import Note
from planner.units import human_bytes

ALONE = (
    "Each rank was rehearsed alone: collectives change nothing, asynchronous ones keep their tensors until they are "
    "waited for, and NCCL's own buffers are not counted."
)


def heaviest(plans: Sequence[Plan]) -> Plan:
    """The plan of the rank whose card takes most, one that ran out of memory before all others, with what all of them
    take; the plans in the order of their ranks."""
    number = max(
        range(len(plans)), key=lambda rank: (_ran_out(plans[rank]), plans[rank].gpu.peak_allocated_bytes, -rank)
    )
    plan = plans[number]
    shared = min(plan.model.bytes, *(each.cpu.peak_bytes for each in plans))
    facts = RankFacts(
        simulated=number, shared_bytes=shared, all_bytes=shared + sum(each.cpu.peak_bytes - shared for each in plans)
    )
    peaks = ", ".join(f"rank {rank} {human_bytes(each.gpu.peak_allocated_bytes)}" for rank, each in enumerate(plans))
    notes = [*plan.notes, *(Note(kind="rehearsal", text=text) for text in (ALONE, f"Allocated at most: {peaks}."))]
    return plan.model_copy(update={"ranks": facts, "notes": tuple(notes)})


def _ran_out(plan: Plan) -> bool:
    return plan.verdict is not None and plan.verdict.outcome == "out of memory"
