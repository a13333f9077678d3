"""PYTORCH_ALLOC_CONF: how PyTorch's caching allocator is told to behave."""

from dataclasses import dataclass

from planner.units import BLOCK, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorSettings:
    """The settings that decide about memory, with PyTorch's defaults (c10/core/AllocatorConfig.h)."""

    max_split_size: int | None = None
    """Bytes. Blocks from this size on are not split, and not used for smaller requests. None: every block is."""
    max_non_split_rounding: int = 20 * MIB
    """By how much a block from `max_split_size` on may exceed the request that it is given to."""
    roundup_power2_divisions: tuple[int, ...] = (0,) * 16
    """Requests are rounded up to one of so many steps between powers of two; 0 or 1: not. For requests below 2 MiB,
    below 4 MiB and so on, the last from 32 GiB on."""
    large_segment_size: int = 20 * MIB
    """The segment for requests above 1 and below 10 MiB."""
    garbage_collection: float = 0.0
    """Share of the process's limit above which old free segments are given back. Nothing without a limit."""
    memory_fraction: float | None = None
    """The process's limit as a share of the card (`per_process_memory_fraction`)."""

    def rounded(self, nbytes: int) -> int:
        """The size of the block for a request (c10/core/CachingDeviceAllocator.h get_round_size)."""
        divisions = self.roundup_power2_divisions[min(max(0, nbytes.bit_length() - 21), 15)]
        if divisions > 1 and nbytes > BLOCK * divisions:
            return _next_division(nbytes, divisions)
        return max(BLOCK, -(-nbytes // BLOCK) * BLOCK)

    def limit(self, total: int | None) -> int | None:
        """Bytes that the process may reserve, where it was told."""
        return int(self.memory_fraction * total) if self.memory_fraction is not None and total is not None else None


DEFAULT = AllocatorSettings()


def _next_division(nbytes: int, divisions: int) -> int:
    """roundup_power2_next_division: 1,200 with four divisions lies between 1,024 and 2,048, steps of 256: 1,280."""
    if nbytes & (nbytes - 1) == 0:
        return nbytes
    floor = 1 << (nbytes.bit_length() - 1)
    step = floor // divisions
    return -(-nbytes // step) * step if step else floor << 1
