"""What a planned job asks of a machine: card, RAM, disk. The one judgement behind every command's verdict."""

from dataclasses import dataclass

from planner.compress.host_schema import Disk, Host
from planner.compress.schema import Plan
from planner.hardware.demand import Demand, demand, fits
from planner.hardware.machine import Machine
from planner.job import Job

ON_CARD = "reserved and CUDA context on a card with room; the smallest card that gets through"
IN_RAM = "resident in RAM; without what the kernel can drop and read again"
TENSORS = "tensors in RAM, without the process around them"
ON_DISK = "files that the job writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardNeed:
    """What a simulated job asks of a card, and how it ends on the machine's."""

    device_total: int
    """Reserved and context on a card with room; 0 where nothing is computed on a GPU."""
    smallest: int
    """The smallest card that gets through."""
    retries: int = 0
    """How often it gives segments back on the machine's card."""
    runs_out: bool = False
    """It runs out of memory there."""


def demands_on(
    machine: Machine, card: CardNeed, ram: tuple[int, int], disk: int | None, *, is_process: bool
) -> tuple[Demand, ...]:
    """What is asked of each resource. `ram`: undisturbed, and at least; of tensors alone unless `is_process`."""
    found = [_of_card(machine, card), demand("RAM", *ram, ram_of(machine), IN_RAM if is_process else TENSORS)]
    if disk is not None:
        found.append(demand("disk", disk, disk, machine.disk_bytes, ON_DISK))
    return tuple(found)


def _of_card(machine: Machine, card: CardNeed) -> Demand:
    has = machine.gpu_memory_bytes if machine.gpus else 0
    if not card.device_total:
        return demand("GPU", 0, 0, has, "nothing is computed on a GPU")
    if has is None or not machine.gpus:
        return demand("GPU", card.device_total, card.smallest, has, ON_CARD)
    # the replay at the card's size decides, not the two figures: getting through is not monotonic (compress/fit.py)
    outcome = "over" if card.runs_out else "slow" if card.retries else "fits"
    at_least = card.smallest if card.runs_out else min(card.smallest, has)
    return demand("GPU", card.device_total, at_least, has, ON_CARD).model_copy(update={"outcome": outcome})


def ram_of(machine: Machine) -> int | None:
    """RAM that a job may have: what is free where somebody looked, else all of it."""
    return machine.ram_bytes if machine.ram_available_bytes is None else machine.ram_available_bytes


def ram_need(plan: Plan, host: Host | None) -> tuple[int, int]:
    """RAM undisturbed and at least, as the process has it, or of the plan's tensors where that was not sized."""
    if host is None:
        return plan.cpu.peak_bytes, plan.cpu.peak_bytes
    return host.peak_resident_bytes, host.peak_must_have_bytes


def disk_need(disk: Disk | None) -> int | None:
    """Bytes that the job writes: the Hub's cache where it downloads, changed weights, the result. None: not known."""
    if disk is None or disk.saved_checkpoint_bytes is None:
        return None
    return disk.download_cache_bytes + disk.offload_folder_bytes + disk.saved_checkpoint_bytes


def judged(plan: Plan, machine: Machine | None = None) -> Plan:
    """The plan with what it asks of the machine, and whether all of that is there. Without one, of the job's card."""
    on = machine or machine_of_job(plan.job)
    if plan.method != "simulate" or plan.verdict is None:
        return plan
    card = CardNeed(
        device_total=(plan.gpu.device_total_bytes or 0) if plan.gpu.peak_reserved_bytes else 0,
        smallest=plan.gpu.smallest_card_bytes or 0,
        retries=plan.verdict.retries,
        runs_out=plan.verdict.outcome == "out of memory",
    )
    ram = ram_need(plan, plan.host)
    demands = demands_on(on, card, ram, disk_need(plan.disk), is_process=plan.host is not None)
    fails = any(note.kind == "fails" for note in plan.notes)
    return plan.model_copy(update={"machine": on, "demands": demands, "fits": "no" if fails else fits(demands)})


def machine_of_job(job: Job) -> Machine:
    """The card that a job names, with nothing else said."""
    return Machine(gpu=job.gpu, gpu_memory_bytes=job.gpu_memory_bytes, sm=job.sm, source="the job's card")
