"""This machine: its cards, RAM, disks, /dev/shm and cores, read from the system; `seen.py` knows the texts."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path, PurePosixPath

import psutil

from planner.hardware.machine import Machine
from planner.hardware.seen import (
    SeenCard,
    SeenMemory,
    card_figures,
    limited,
    parse_cards,
    parse_cgroups,
    parse_limit,
    parse_statistic,
    visible_cards,
)
from planner.units import format_bytes

SMI = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
SMI_SECONDS = 30


def this_machine(folder: Path | None = None) -> Machine:
    """The machine that this runs on; `folder` is where results are written, by default the current one."""
    memory = _memory()
    cards = visible_cards(_cards(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    limit = (f"RAM is the limit of a container (cgroup): {format_bytes(memory.total)}",)
    disk, cache = _disks(Path.cwd() if folder is None else folder)
    fields = {
        "ram_bytes": memory.total,
        "ram_available_bytes": min(memory.available, memory.total),
        "disk_bytes": disk,
        "cache_disk_bytes": cache,
        "shm_bytes": _shared_memory(),
        "cores": _cores(),
        "source": "this machine",
        "date": date.today().isoformat(),
        "notes": limit if memory.limited else (),
    }
    return Machine.model_validate({**fields, **card_figures(cards, memory.total)})


def _memory() -> SeenMemory:
    """/proc/meminfo's MemTotal and MemAvailable, or what stands for them on other systems, within every limit."""
    seen = psutil.virtual_memory()
    memory = SeenMemory(total=seen.total, available=seen.available)
    for group in parse_cgroups(_read(PurePosixPath("/proc/self/cgroup"))):
        limit = parse_limit(_read(group.limit))
        if limit is not None:
            droppable = parse_statistic(_read(group.statistics), group.droppable)
            memory = limited(memory, limit, (parse_limit(_read(group.used)) or 0) - droppable)
    return memory


def _cards() -> tuple[SeenCard, ...]:
    """By nvidia-smi, else by pynvml; none where neither finds a driver."""
    program = shutil.which(SMI[0])
    if program is None:
        return tuple(_by_pynvml())
    try:
        run = subprocess.run(  # noqa: S603  # a program of the driver, with fixed arguments
            [program, *SMI[1:]], capture_output=True, text=True, timeout=SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_cards(run.stdout) if run.returncode == 0 else ()


def _by_pynvml() -> Iterator[SeenCard]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver: it has an error class of its own for each
        return
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        yield SeenCard(
            name=pynvml.nvmlDeviceGetName(handle),
            total_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
            sm=10 * major + minor,
        )


def _disks(folder: Path) -> tuple[int | None, int | None]:
    """Free bytes where results go, and where the Hub's cache lies if that is another disk."""
    from huggingface_hub.constants import HF_HUB_CACHE

    results, cache = _existing(folder), _existing(Path(HF_HUB_CACHE))
    same = results.stat().st_dev == cache.stat().st_dev
    return shutil.disk_usage(results).free, None if same else shutil.disk_usage(cache).free


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    whole = folder.expanduser().absolute()
    return next(path for path in (whole, *whole.parents) if path.is_dir())


def _shared_memory() -> int | None:
    shared = Path("/dev/shm")  # noqa: S108  # it is looked at, not written to
    return shutil.disk_usage(shared).total if shared.is_dir() else None


def _cores() -> int | None:
    """Those that this process may use, where the system says it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()


def _read(path: PurePosixPath) -> str:
    """The text of a file of the system; empty where it is not there or not for us."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
