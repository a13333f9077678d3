"""Reads what the accelerator and this process hold now, and the most that they held since the last reading."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch

from planner.measure.record import CpuFigures, GpuFigures

SAMPLE_SECONDS = 0.02


class DeviceProbe(Protocol):
    """An accelerator whose peaks can be read and reset."""

    def reset(self) -> None:
        """Start new peaks."""

    def read(self) -> GpuFigures:
        """Peaks since the last reset; device_bytes as far as the allocator's own statistics show them."""

    def used(self) -> int | None:
        """Bytes in use on the whole card now."""


class CudaProbe:
    """The current CUDA (or ROCm) device through torch's caching allocator."""

    def __init__(self) -> None:
        self._retries = 0

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def read(self) -> GpuFigures:
        torch.cuda.synchronize()  # so that seconds belong to the step that launched the work
        stats = torch.cuda.memory_stats()
        retries = int(stats.get("num_alloc_retries", 0))
        new, self._retries = retries - self._retries, retries
        reserved = stats.get("reserved_bytes.all.peak")
        return GpuFigures(
            requested_bytes=stats.get("requested_bytes.all.peak"),
            allocated_bytes=stats.get("allocated_bytes.all.peak"),
            reserved_bytes=reserved,
            device_bytes=None if reserved is None else reserved + self._outside(stats),
            end_allocated_bytes=stats.get("allocated_bytes.all.current"),
            retries=new,
        )

    def used(self) -> int:
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def _outside(self, stats: dict[str, int]) -> int:
        """Bytes that the driver gave to others than the allocator: context, library handles, other processes."""
        return self.used() - int(stats["reserved_bytes.all.current"])


class NoDevice:
    """A job on the CPU alone: no device figures."""

    def reset(self) -> None:
        """Nothing to reset."""

    def read(self) -> GpuFigures:
        return GpuFigures()

    def used(self) -> int | None:
        return None


def resident_bytes() -> int | None:
    """Resident memory of this process; None where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything known of one step."""

    seconds: float
    gpu: GpuFigures
    cpu: CpuFigures


class Sampler:
    """Takes all peaks: the allocator counts its own, and a thread samples the others every SAMPLE_SECONDS.

    Use it as a context manager; `take` returns the figures since the last `take` and starts anew.
    """

    def __init__(self, probe: DeviceProbe, every: float = SAMPLE_SECONDS) -> None:
        self._probe, self._every = probe, every
        self._lock, self._done = threading.Lock(), threading.Event()
        self._rss: int | None = None
        self._used: int | None = None
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="planner-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._probe.reset()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def take(self) -> Reading:
        """The figures since the last call; the next ones start from what is held now."""
        gpu = self._probe.read()
        self._look()
        with self._lock:
            rss, used, self._rss, self._used = self._rss, self._used, None, None
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        self._probe.reset()
        return Reading(
            seconds=round(seconds, 4),
            gpu=gpu.model_copy(update={"device_bytes": _higher(used, gpu.device_bytes)}),
            cpu=CpuFigures(rss_bytes=rss),
        )

    def _run(self) -> None:
        while not self._done.wait(self._every):
            self._look()

    def _look(self) -> None:
        rss, used = resident_bytes(), self._probe.used()
        with self._lock:
            self._rss, self._used = _higher(self._rss, rss), _higher(self._used, used)


def _higher(old: int | None, new: int | None) -> int | None:
    return new if old is None else old if new is None else max(old, new)
