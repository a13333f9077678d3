"""One machine: its cards, its RAM, its disk, and what an hour of it costs. What nobody said is None, never zero."""

from pydantic import Field

from planner.errors import JobError
from planner.records import Record

AS_SAID = "as said"
"""What `shm_label` says of a size that somebody said or read."""
HALF_OF_RAM = "half of RAM, Linux's default for /dev/shm"
"""Documentation/filesystems/tmpfs.rst, `size`: "The default is half of your physical RAM without swap"."""

MAX_GPUS = 2**16
MAX_RAM = 2**50
"""Bytes: 1 PiB, 30 times the largest machine that can be rented. More is a typing mistake."""
MAX_DISK = 2**60
"""Bytes: 1 EiB."""


class HourlyPrice(Record):
    """What one hour of a machine costs, all of its GPUs together."""

    amount: float = Field(gt=0, allow_inf_nan=False)
    currency: str = Field(pattern="^[A-Z]{3}$")
    """As ISO 4217 has it: USD, EUR."""


class Machine(Record):
    """A machine that a job runs on. Memory of GPU, CPU and disk are three things and never summed."""

    name: str | None = None
    """As its provider calls it, or None for one that was put together from options."""
    cloud: str | None = None
    gpu: str | None = None
    """The card's name in the table of GPUs, or as its driver or catalogue calls it; None for a size without a name."""
    gpu_memory_bytes: int | None = Field(default=None, ge=1, le=MAX_RAM)
    """What CUDA sees of one card, less than its label. None: nobody said, or there is no card."""
    sm: int | None = Field(default=None, ge=10, le=999)
    """Compute capability, 90 for 9.0."""
    gpus: int = Field(default=1, ge=0, le=MAX_GPUS)
    """Cards of this kind; 0 only where somebody looked and found none."""
    ram_bytes: int | None = Field(default=None, ge=1, le=MAX_RAM)
    """All of the RAM that a process may use: the machine's, or the limit of its container."""
    ram_available_bytes: int | None = Field(default=None, ge=0, le=MAX_RAM)
    """What of it was free when somebody looked; None for a machine that is not this one."""
    disk_bytes: int | None = Field(default=None, ge=0, le=MAX_DISK)
    """Free bytes of the local disk, where results are written."""
    cache_disk_bytes: int | None = Field(default=None, ge=0, le=MAX_DISK)
    """Free bytes where the Hugging Face Hub's cache lies; None where it is the same disk, or nobody said."""
    shm_bytes: int | None = Field(default=None, ge=0, le=MAX_RAM)
    """Size of /dev/shm, where somebody said it."""
    cores: int | None = Field(default=None, ge=1)
    """Logical ones (vCPUs)."""
    price: HourlyPrice | None = None
    region: str | None = None
    source: str
    """Who says so."""
    date: str | None = None
    """When the source was read, as 2026-01-31."""
    gpu_notes: tuple[str, ...] = ()
    """What a reader of the card's figures must know: that a size is a label, or a driver's."""
    notes: tuple[str, ...] = ()
    """What a reader of the other figures must know: that RAM is a container's limit."""

    @property
    def shm_size_bytes(self) -> int | None:
        """Size of /dev/shm: what was said, else half of RAM; None where neither is known. `shm_label` says which."""
        if self.shm_bytes is not None or self.ram_bytes is None:
            return self.shm_bytes
        return self.ram_bytes // 2

    @property
    def shm_label(self) -> str | None:
        """Where `shm_size_bytes` comes from; None where it is None."""
        if self.shm_bytes is not None:
            return AS_SAID
        return None if self.ram_bytes is None else HALF_OF_RAM

    def card_bytes(self) -> int:
        """What CUDA sees of one card. Raises JobError where there is none, or nobody said its size."""
        if self.gpu_memory_bytes is None:
            lacks = "has no GPU" if self.gpus == 0 else "has a GPU of which nobody said the memory"
            raise JobError(f"the machine {lacks}; name one, like --gpu l40s, or give its memory, like --gpu 24GiB")
        return self.gpu_memory_bytes
