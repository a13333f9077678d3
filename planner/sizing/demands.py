"""What a planned job asks of a machine: card, RAM, disk. The one judgement behind every command's verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.compress.host_schema import Disk
from planner.compress.schema import GpuPeak, Plan, Verdict
from planner.hardware.demand import Demand, Resource, demand, fits
from planner.hardware.machine import Machine
from planner.job import Job
from planner.sizing.host_constants import HostConstants
from planner.units import MIB

ON_CARD = "reserved and CUDA context on a card with room; the smallest card that gets through"
ON_FULL_CARD = "reserved and CUDA context on this one, giving cached memory back; the smallest card that gets through"
IN_RAM = "resident in RAM; without what the kernel can drop and read again"
ESTIMATED = "an estimate: tensors, imports and CUDA's host side"
IN_SHM = "weights and qparams in /dev/shm, once for all ranks"
ON_DISK = "files that the job writes"
IN_CACHE = "the checkpoint, downloaded into the Hub's cache on a disk of its own"


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
    cards: int = 1
    """So many of them: one for each rank, or those that must be there beside the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeed:
    """Bytes that a job writes."""

    results: int
    """Changed weights and the result."""
    cache: int
    """What it downloads into the Hub's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RamNeed:
    """What a job asks of RAM, all of its processes together."""

    resident: int
    must_have: int
    is_process: bool
    """False: its tensors and what every process has, without loading and saving."""
    shared: int = 0
    """Of it, in /dev/shm; 0 for one process."""


def demands_on(
    machine: Machine, card: CardNeed, ram: RamNeed, disk: DiskNeed | None = None, second: CardNeed | None = None
) -> tuple[Demand, ...]:
    """What is asked of each resource; `second` is the card on which activations wait, or the fullest of the others that
    layers are spread over."""
    found = [_on_machine("GPU", machine, card, card.cards)]
    if second is not None:
        found.append(_on_machine("second GPU", machine, second, second.cards + 1))
    return (*found, *host_demands_on(machine, ram, disk))


def host_demands_on(machine: Machine, ram: RamNeed, disk: DiskNeed | None = None) -> tuple[Demand, ...]:
    """What is asked of all but cards."""
    found = list[Demand]()
    what = IN_RAM if ram.is_process else ESTIMATED
    found.append(demand("RAM", ram.resident, ram.must_have, ram_of(machine), what))
    if ram.shared:
        found.append(demand("shared memory", ram.shared, ram.shared, machine.shm_size_bytes, IN_SHM))
    if disk is not None:
        is_apart = machine.cache_disk_bytes is not None
        here = disk.results + (0 if is_apart else disk.cache)
        found.append(demand("disk", here, here, machine.disk_bytes, ON_DISK))
        if is_apart and disk.cache:
            found.append(demand("Hub cache", disk.cache, disk.cache, machine.cache_disk_bytes, IN_CACHE))
    return tuple(found)


def _on_machine(resource: Resource, machine: Machine, card: CardNeed, gpus: int) -> Demand:
    """What is asked of a card of which a machine must have `gpus`, the first one counted."""
    found = _of_card(resource, machine.gpu_memory_bytes if machine.gpus >= gpus else 0, card)
    return found.model_copy(update={"gpus": gpus, "has_gpus": machine.gpus})


def _of_card(resource: Resource, has: int | None, card: CardNeed) -> Demand:
    if not card.device_total:
        return demand(resource, 0, 0, has or 0, "nothing is computed on a GPU")
    gives_back = bool(has and card.retries and not card.runs_out)
    what = ON_FULL_CARD if gives_back else ON_CARD
    if card.cards > 1:
        what += (
            f"; {card.cards} cards, one for each rank"
            if resource == "GPU"
            else f"; {card.cards} must be there beside the first"
        )
    if not has:
        return demand(resource, card.device_total, card.smallest, has, what)
    # the replay at the card's size decides, not the two figures: getting through is not monotonic (compress/fit.py)
    outcome = "over" if card.runs_out else "slow" if card.retries else "fits"
    at_least = max(card.smallest, has + MIB) if card.runs_out else min(card.smallest, has)
    return demand(resource, card.device_total, at_least, has, what).model_copy(update={"outcome": outcome})


def gpus_of_recipe(job: Job, demands: Sequence[Demand]) -> int:
    """GPUs that a recipe's layers are spread over, where nothing is missing but these; else 0.

    No way to run the job does with fewer, as AutoRound's `device_ids` are the recipe's. Activations on a second GPU
    and ranks are the job's own, and can be left out.
    """
    missing = [demand for demand in demands if demand.outcome == "over"]
    if job.has_second_gpu or job.ranks > 1 or not all(demand.lacks_gpus for demand in missing):
        return 0
    return max((demand.gpus for demand in missing if demand.resource == "second GPU"), default=0)


def ram_of(machine: Machine) -> int | None:
    """RAM that a job may have: what is free where somebody looked, else all of it."""
    return machine.ram_bytes if machine.ram_available_bytes is None else machine.ram_available_bytes


def ram_need(plan: Plan) -> RamNeed:
    """As the processes have it; where that was not sized, tensors and what every process has.

    Several ranks share weights and qparams; each has all else of its own.
    """
    host, ranks, shared = plan.host, plan.job.ranks, plan.ranks.shared_bytes if plan.ranks else 0
    if host is None:
        process = HostConstants()
        own = ranks * (process.imports_anonymous + process.objects + process.cuda_anonymous)
        files = process.imports_file + process.code + process.cuda_file
        must_have = (plan.ranks.all_bytes if plan.ranks else plan.cpu.peak_bytes) + own
        return RamNeed(resident=must_have + files, must_have=must_have, is_process=False, shared=shared)
    resident, must_have = (
        shared + ranks * max(0, peak - shared) for peak in (host.peak_resident_bytes, host.peak_must_have_bytes)
    )
    return RamNeed(resident=resident, must_have=must_have, is_process=True, shared=shared)


def disk_need(disk: Disk | None) -> DiskNeed | None:
    """Bytes that the job writes; None: not known."""
    if disk is None or disk.saved_checkpoint_bytes is None:
        return None
    saved = disk.saved_checkpoint_bytes + (disk.saved_header_bytes or 0)
    return DiskNeed(results=disk.offload_folder_bytes + saved, cache=disk.download_cache_bytes)


def judged(plan: Plan, machine: Machine | None = None) -> Plan:
    """The plan with what it asks of the machine, and whether all of that is there. Of which no card was said, the card
    is the job's."""
    on = _with_card(machine, plan.job) if machine else machine_of_job(plan.job)
    if plan.method == "rule-of-thumb" or plan.verdict is None:
        return plan
    card = replace(_card_need(plan.gpu, plan.verdict, 0), cards=plan.job.ranks)
    second = _card_need(plan.second_gpu, plan.verdict, 1) if plan.second_gpu else None
    second = second and replace(second, cards=max(1, plan.other_gpus))
    demands = demands_on(on, card, ram_need(plan), disk_need(plan.disk), second)
    fails = any(note.kind == "fails" for note in plan.notes)
    return plan.model_copy(update={"machine": on, "demands": demands, "fits": "no" if fails else fits(demands)})


def _card_need(peak: GpuPeak, verdict: Verdict, number: int) -> CardNeed:
    second = verdict.second_retries
    return CardNeed(
        device_total=(peak.device_total_bytes or 0) if peak.peak_reserved_bytes else 0,
        smallest=peak.smallest_card_bytes or 0,
        retries=second if number else verdict.retries - second,
        runs_out=verdict.outcome == "out of memory" and verdict.gpu == number,
    )


def _with_card(machine: Machine, job: Job) -> Machine:
    if machine.gpu_memory_bytes is not None or not machine.gpus:
        return machine
    return machine.model_copy(update={"gpu": job.gpu, "gpu_memory_bytes": job.gpu_memory_bytes, "sm": job.sm})


def machine_of_job(job: Job) -> Machine:
    """The card that a job names, with nothing else said."""
    return Machine(gpu=job.gpu, gpu_memory_bytes=job.gpu_memory_bytes, sm=job.sm, source="the job's card")
