"""What no plan can count of a process: figures that were measured, each with its unit and source.

Measured with tests/hostmeter on Linux 6.18, glibc 2.39, Python 3.11, CPU build of PyTorch 2.13.0, llmcompressor
0.14.0.1 (tests/measured/host). Another machine has others: give a record of its own to `host_of`.
"""

from pydantic import Field

from planner.records import Record
from planner.units import KIB, MIB

MEASURED = "tests/measured/host"


class HostConstants(Record):
    """Bytes, unless a name says otherwise."""

    imports_anonymous: int = Field(
        default=315 * MIB, description=f"after importing torch, transformers, datasets, llmcompressor: {MEASURED}"
    )
    imports_file: int = Field(default=128 * MIB, description=f"code pages and data of these libraries: {MEASURED}")
    lazy_anonymous: int = Field(
        default=20 * MIB, description=f"objects that the job makes: modules, hooks, graphs: {MEASURED}"
    )
    lazy_file: int = Field(default=29 * MIB, description=f"code that is read when it first runs: {MEASURED}")
    fault_bytes: int = Field(
        default=64 * KIB,
        description="what one read of a mapped file brings into RAM: Linux mm/memory.c fault_around_bytes. Up to 2 MiB "
        f"where the page cache holds the file in huge folios, as after writing it; both seen: {MEASURED}",
    )
    heap_block: int = Field(
        default=32 * MIB,
        description="malloc takes larger blocks from the kernel and gives them back at once: glibc malloc.c "
        "DEFAULT_MMAP_THRESHOLD_MAX",
    )
    heap_kept: int = Field(
        default=30 * MIB, description=f"free memory that malloc keeps between live blocks once a layer ran: {MEASURED}"
    )
    heap_share_percent: int = Field(
        default=35, description=f"and of the most that temporaries of a step took so far: {MEASURED}"
    )
    copies_kept_percent: int = Field(
        default=350,
        description="free memory between the copies once save has made all, as a share of one module's temporaries as "
        f"far as these are smaller than heap_block (240 to 570 seen): {MEASURED}",
    )
    cuda_anonymous: int = Field(
        default=350 * MIB, description="an estimate: what the CUDA driver and libraries allocate on the host's side"
    )
    cuda_file: int = Field(
        default=700 * MIB, description="an estimate: pages of CUDA's libraries that a job touches, of several GB"
    )
    staging: int = Field(
        default=64 * MIB, description="an estimate: pinned buffers through which the driver copies pageable memory"
    )
    worker: int = Field(
        default=10 * MIB,
        description="pages of its own of a forked DataLoader worker (Private_Dirty in smaps_rollup, two workers, 64 "
        "batches of 2048 tokens); it shows 350 MiB as RSS, which it shares",
    )
    dispatch_kept_percent: int = Field(
        default=5, description="compressed_tensors offload/dispatch.py dispatch_model: kept free on the card"
    )
    dispatch_kept_least: int = Field(default=10**9, description="the same: at least")
    dispatch_tokens: int = Field(default=2048, description="the same: rows of intermediate_size that are kept free")
    shard: int = Field(
        default=20 * 10**9,
        description="llmcompressor transformers/compression/compressed_tensors_utils.py: max_shard_size of save",
    )
