"""The compiled books (driver/books.cpp), seen from Python: what CPU tensors take, which values are known."""

import ctypes
import os
import threading
from pathlib import Path
from typing import Any

import torch

GPU_FIGURES = {
    "requested": "requested_bytes.all.peak",
    "allocated": "allocated_bytes.all.peak",
    "reserved": "reserved_bytes.all.peak",
}


class TensorBooks:
    """One per process."""

    def __init__(self, library: Path, folder: Path, script: str, own: str) -> None:
        self._c = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        for name, kind in (("books_cpu_live", ctypes.c_int64), ("books_cpu_peak", ctypes.c_int64)):
            getattr(self._c, name).restype = kind
        self._c.books_selected.argtypes = [ctypes.c_double]
        self._c.books_unknown.argtypes = [ctypes.c_void_p]
        names = (folder / "trace.bin", folder / "origins.jsonl", script, own)
        self._c.books_open(*(os.fsencode(name) for name in names))
        self._retries: dict[int, int] = {}
        self._reset, self._stats = torch._C._cuda_resetPeakMemoryStats, torch._C._cuda_memoryStats
        self._shown: dict[int, dict[str, int]] = {}
        """Peaks since the script itself reset them, as far as steps have ended since."""
        self._before: dict[int, dict[str, int]] = {}
        """Peaks of the open step, from before the script reset them."""
        for name in ("_cuda_resetPeakMemoryStats", "_accelerator_resetPeakStats"):
            if hasattr(torch._C, name):
                setattr(torch._C, name, self._keeping_peaks(getattr(torch._C, name)))
        for name in ("_cuda_memoryStats", "_accelerator_getDeviceStats"):
            if hasattr(torch._C, name):
                setattr(torch._C, name, self._showing_peaks(getattr(torch._C, name)))
        os.register_at_fork(after_in_child=self._c.books_forget)

    def watch(self) -> None:
        """Let every operator of every thread pass through the books, from now on."""
        self._c.books_watch(1)
        run = threading.Thread.run

        def watched(thread: Any) -> None:
            self._c.books_watch(1)
            run(thread)

        threading.Thread.run = watched  # type: ignore[method-assign,assignment]  # for every thread of the script

    def mark(self, number: int) -> None:
        """Write into the trace that a step ends here."""
        self._c.books_mark(number)

    def batch(self) -> None:
        """Write into the trace that a batch begins."""
        self._c.books_batch()

    def asked(self) -> None:
        """Write into the trace that the job was told how much of the card is free."""
        self._c.books_asked()

    def close(self) -> None:
        """Write the rest of the trace."""
        self._c.books_close()

    def selected(self, share: float) -> None:
        """An unknown mask selects this share."""
        self._c.books_selected(share)

    def unknown(self, tensor: Any) -> None:
        """The values of this CPU tensor are made up."""
        if tensor.device.type == "cpu" and tensor.untyped_storage().nbytes():
            self._c.books_unknown(tensor.untyped_storage().data_ptr())

    def figures(self) -> dict[str, Any]:
        """Peaks since the last call, and what is held now; new peaks begin."""
        cpu = {"peak": self._c.books_cpu_peak(1), "end": self._c.books_cpu_live()}
        return {"cpu": cpu, "gpus": [self._card(number) for number in range(torch.cuda.device_count())]}

    def _keeping_peaks(self, own: Any) -> Any:
        """The script measures for itself, too: what it resets is not lost."""

        def reset(*values: Any) -> Any:
            for number in range(torch.cuda.device_count()):
                self._before[number] = self._peaks(number)
            self._shown.clear()
            return own(*values)

        return reset

    def _showing_peaks(self, own: Any) -> Any:
        """The script sees its peaks, whichever steps ended meanwhile."""

        def stats(number: int) -> Any:
            found = own(number)
            for name, peak in self._shown.get(number, {}).items():
                all_pools = found[GPU_FIGURES[name].partition(".")[0]]["all"]
                all_pools["peak"] = max(all_pools["peak"], peak)
            return found

        return stats

    def _peaks(self, number: int) -> dict[str, int]:
        stats, before = self._stats(number), self._before.get(number, {})
        return {name: max(_all(stats, key), before.get(name, 0)) for name, key in GPU_FIGURES.items()}

    def _card(self, number: int) -> dict[str, int]:
        stats, figures = self._stats(number), self._peaks(number)
        shown = self._shown.setdefault(number, {})
        shown.update({name: max(shown.get(name, 0), _all(stats, key)) for name, key in GPU_FIGURES.items()})
        figures["end"] = _all(stats, "requested_bytes.all.current")
        retries = int(stats["num_alloc_retries"])
        figures["retries"] = retries - self._retries.get(number, 0)
        self._retries[number] = retries
        self._before.pop(number, None)
        self._reset(number)
        return figures


def _all(stats: Any, key: str) -> int:
    """One figure of PyTorch's nested statistics: `requested_bytes.all.peak`."""
    group, pool, figure = key.split(".")
    return int(stats[group][pool][figure])
