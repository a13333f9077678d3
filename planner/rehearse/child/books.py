"""The compiled books (driver/books.cpp), seen from Python: what CPU tensors take, which values are known."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

GPU_FIGURES = {
    "requested": "requested_bytes.all.peak",
    "allocated": "allocated_bytes.all.peak",
    "reserved": "reserved_bytes.all.peak",
}


class Deeds(NamedTuple):
    """What a batch did."""

    card: int
    """A hash of all that was asked of the cards in its order; what was given back by how long ago it was taken."""
    held: int
    """A hash of where which tensors lie on the cards when it ends: with the segments, where free blocks lie."""
    questions: int
    """How often the driver was asked for a segment or given one, memory ran out, or somebody asked what is free."""
    cpu: int
    """A hash of the sizes of all CPU tensors that were taken and given back."""
    large_taken: int
    large_given: int
    """CPU tensors that the trace names."""
    change: int
    """Bytes of CPU tensors that it left behind; negative: that it gave back."""
    rise: int
    """By how many bytes CPU tensors were more at most than when it began."""


class RecordedCall(NamedTuple):
    """What a call did."""

    hash: int
    """Of what it asked the card for, and what of that it gave back when."""
    cpu: int
    """Of the sizes of all CPU tensors that were taken and given back."""
    large: int
    """CPU tensors that the trace names, taken or given back."""
    survivors: int
    """Tensors on the card that outlive it."""
    plain: int
    """1 where it used one card and one stream, gave back nothing that others had taken, and asked nothing."""
    change: int
    rise: int
    """As those of a batch."""


def _structure(fields: tuple[str, ...]) -> Any:
    """driver/deeds.h and calls.h have the same."""
    each = [(name, ctypes.c_int64 if name in ("change", "rise") else ctypes.c_uint64) for name in fields]
    return type("Structure", (ctypes.Structure,), {"_fields_": each})


_Deeds, _RecordedCall = _structure(Deeds._fields), _structure(RecordedCall._fields)


class _MadeAt:
    """A context; no generator, for each played call has one."""

    __slots__ = ("_origin", "_say")

    def __init__(self, say: Any, origin: int) -> None:
        self._say, self._origin = say, origin

    def __enter__(self) -> None:
        self._say(self._origin)

    def __exit__(self, *_error: object) -> None:
        self._say(0)


class TensorBooks:
    """One per process."""

    def __init__(self, library: Path, folder: Path, script: str, own: str) -> None:
        self._c = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        for name, kind in (("books_cpu_live", ctypes.c_int64), ("books_cpu_peak", ctypes.c_int64)):
            getattr(self._c, name).restype = kind
        self._c.books_selected.argtypes = [ctypes.c_double]
        for function in (self._c.books_unknown, self._c.books_origin):
            function.argtypes = [ctypes.c_void_p]
        self._c.books_numbers.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
        self._c.books_origin.restype = ctypes.c_uint32
        self._c.books_numbers.restype = ctypes.c_uint64
        self._c.books_keep.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint64]
        for function in (self._c.books_has_room, self._c.books_drop):
            function.argtypes = [ctypes.c_int64]
        self._c.books_play.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        self._c.books_keep.restype = self._c.books_play.restype = ctypes.c_int64
        self._c.books_know.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        self._c.books_rise.argtypes = [ctypes.c_int64]
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

    def batch(self) -> Deeds:
        """Write into the trace that a batch begins; what was done since the one before began."""
        done = _Deeds()
        self._c.books_batch(ctypes.byref(done))
        return Deeds(*(getattr(done, name) for name in Deeds._fields))

    def again(self, batches: int, times: int) -> None:
        """Write into the trace that the last `batches` batches would come so many times more."""
        self._c.books_again(batches, times)

    def rounds_end(self) -> None:
        """Write into the trace that what follows belongs to no batch."""
        self._c.books_rounds_end()

    def rise(self, nbytes: int) -> None:
        """CPU tensors would be so many bytes more now, for a moment."""
        self._c.books_rise(nbytes)

    def asked(self) -> None:
        """Write into the trace that the job was told how much of the card is free."""
        self._c.books_asked()

    def numbers(self, tensor: torch.Tensor) -> int:
        """A hash of all numbers of its storage; 0 where they are made up."""
        storage = tensor.untyped_storage()
        found: int = self._c.books_numbers(storage.data_ptr(), storage.nbytes(), tensor.is_cuda)
        return found

    @contextmanager
    def made_where(self, storage: Any) -> Iterator[None]:
        """What is taken here counts as asked for by the code that asked for this storage."""
        with self.made_at(self._c.books_origin(storage.data_ptr())):
            yield

    def made_at(self, origin: int) -> "_MadeAt":
        """What is taken here counts as asked for by the code with this number."""
        return _MadeAt(self._c.books_made_at, origin)

    def record(self) -> None:
        """A call begins that may be played later; it may be within another one."""
        self._c.books_record()

    def recorded(self) -> RecordedCall:
        """The call that began last is over."""
        done = _RecordedCall()
        self._c.books_recorded(ctypes.byref(done))
        return RecordedCall(*(getattr(done, name) for name in RecordedCall._fields))

    def keep(self, call: int, survivors: int) -> tuple[int, list[int]]:
        """The call that was recorded last is what is played under this number from now on (-1: under a new one): the
        number, and addresses of what outlives the call, by birth."""
        addresses = (ctypes.c_uint64 * survivors)()
        number: int = self._c.books_keep(call, addresses, survivors)
        return number, list(addresses)

    def drop(self, call: int) -> None:
        """Nobody plays the call with this number any more."""
        self._c.books_drop(call)

    def has_room(self, call: int) -> bool:
        """Whatever that call asks for, the card has."""
        return bool(self._c.books_has_room(call))

    def play(self, call: int, place: int) -> tuple[int, int]:
        """Ask the card for what the call asks for, from this place to where the next tensor is taken that outlives it,
        which the caller takes, or to the end: the place, and the number of the code that asks there."""
        origin = ctypes.c_uint32()
        found: int = self._c.books_play(call, place, ctypes.byref(origin))
        if found < 0:
            raise RuntimeError("planner rehearse: memory ran out where there was room")
        return found, origin.value

    def know(self, call: int, place: int, tensor: torch.Tensor) -> None:
        """This tensor, taken at this place of the call, has the numbers that were known of the recorded one."""
        self._c.books_know(call, place, tensor.untyped_storage().data_ptr())

    def round(self) -> None:
        """A round begins: work that may be like the round before, and is then not written but counted."""
        self._c.books_round()

    def rounds_over(self) -> None:
        """The last round is over."""
        self._c.books_rounds_over()

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
