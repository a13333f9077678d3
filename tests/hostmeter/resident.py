"""What the kernel, malloc and Python know of this process's memory. Bytes."""

import ctypes
import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 2**20
FIELDS = ("VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem")
HERE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("HOSTMETER") or HERE.parent.parent / ".instruments" / "hostmeter")
"""Where checkpoints and results lie."""

Row = tuple[float, int, int, int]
_libc = ctypes.CDLL(None)


def status() -> dict[str, int]:
    """Resident bytes now: VmRSS = RssAnon + RssFile + RssShmem; VmHWM: the highest VmRSS since `reset_peak`."""
    lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, _, value in lines if name in FIELDS}


def reset_peak() -> None:
    """The kernel's high-water mark starts anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def trim() -> None:
    """Let malloc give free pages back to the kernel."""
    _libc.malloc_trim(0)


def malloc_books() -> dict[str, int]:
    """All arenas of malloc: free bytes that it keeps, bytes from the system, and mmapped chunks."""
    _libc.fopen.restype = ctypes.c_void_p
    path = FOLDER / f".malloc.{os.getpid()}"
    file = ctypes.c_void_p(_libc.fopen(str(path).encode(), b"w"))
    _libc.malloc_info(0, file)
    _libc.fclose(file)
    text = path.read_text()
    path.unlink()
    totals = text[text.rindex("</heap>") :]
    patterns = {
        "free_fast": r'<total type="fast" count="\d+" size="(\d+)"',
        "free_rest": r'<total type="rest" count="\d+" size="(\d+)"',
        "mmapped": r'<total type="mmap" count="\d+" size="(\d+)"',
        "system": r'<system type="current" size="(\d+)"',
    }
    sums = {name: sum(map(int, re.findall(pattern, totals))) for name, pattern in patterns.items()}
    return {**sums, "arenas": text.count("<heap nr=")}


def live_tensors() -> dict[str, int]:
    """Bytes of the CPU tensors that Python's collector can see, each storage once."""
    import torch

    plain = ("Tensor", "Parameter", "Buffer")
    storages = {}
    for found in gc.get_objects():
        if type(found).__name__ in plain and isinstance(found, torch.Tensor) and found.device.type == "cpu":
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return {"bytes": sum(storages.values()), "storages": len(storages)}


def evict(folder: Path) -> None:
    """Drop the folder's files from the page cache, as after a reboot."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


@contextmanager
def sampled(csv: Path, smaps_seconds: float = 0) -> Iterator[None]:
    """While this is open, sampler.py writes this process's resident memory to `csv`."""
    csv.unlink(missing_ok=True)
    Path(f"{csv}.smaps").unlink(missing_ok=True)
    command = [sys.executable, "-S", str(HERE / "sampler.py"), str(os.getpid()), str(csv)]
    process = subprocess.Popen(command + ([str(smaps_seconds)] if smaps_seconds else []))
    time.sleep(0.3)  # until it reads
    try:
        yield
    finally:
        time.sleep(0.05)  # the last readings
        process.terminate()
        process.wait()


def rows(csv: Path) -> list[Row]:
    """The sampler's readings: time, resident, anonymous, file bytes. A line that was cut off is left out."""
    readings = (line.split(",") for line in csv.read_text().splitlines() if line.count(",") == 3)
    return [(float(when), int(total), int(anonymous), int(files)) for when, total, anonymous, files in readings]
