"""What a reader must know of figures about RAM: estimates, and limits that bind."""

from collections.abc import Iterator

from planner.compress.host_schema import HostSetting
from planner.compress.schema import Plan
from planner.sizing.host_save import between_copies
from planner.sizing.weight_pages import WeightWalk
from planner.units import MIB, format_bytes, human_bytes

WORTH_SAYING = 64 * MIB


def host_notes(plan: Plan, walk: WeightWalk, setting: HostSetting) -> Iterator[str]:
    """In reading order."""
    if setting.gpu:
        yield "CUDA's host side is an estimate: it was measured on no machine."
    elif any(step.gpu.peak_bytes for step in plan.steps):
        yield "The plan is for a GPU; without one the process holds those bytes too, added here step by step."
    if walk.mode in ("cast", "no mmap"):
        reason = "cast" if walk.mode == "cast" else "read without mmap"
        yield f"The checkpoint is {reason} while it is loaded: weights and files are in RAM together."
    if walk.model.is_converted:
        yield (
            "Fused experts are the process's own memory, twice while they become Linears: "
            "load inside load_quantizable_moe to avoid both."
        )
    if walk.offloaded:
        text = f"{format_bytes(walk.offloaded)} of weights stay on disk and are read whenever they are used."
        yield text
    kept = 0 if setting.gpu else between_copies(walk.model, walk.constants)
    if kept >= WORTH_SAYING:
        yield (
            f"malloc keeps about {human_bytes(kept)} between the copies that save makes: with "
            "MALLOC_MMAP_THRESHOLD_=131072 in the job's environment it gives them back."
        )
    if setting.dataloader_workers:
        yield "Batches that workers make lie in /dev/shm, and stay there as long as the activation cache has them."
    yield from _shared(walk, setting)


def _shared(walk: WeightWalk, setting: HostSetting) -> Iterator[str]:
    """Weights of several ranks lie in /dev/shm, once."""
    if setting.ranks == 1:
        return
    size = setting.shm_bytes or (setting.ram_limit_bytes or 0) // 2
    held = format_bytes(walk.model.weight_bytes)
    if size and walk.model.weight_bytes > size:
        yield f"{held} of weights do not fit into /dev/shm of {format_bytes(size)}: the job fails while it loads."
    else:
        yield f"{held} of weights lie in /dev/shm once for all ranks, which other processes cannot have meanwhile."
    yield "Figures are those of one rank."
