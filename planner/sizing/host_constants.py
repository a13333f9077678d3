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
    objects_loading: int = Field(
        default=2 * MIB, description=f"anonymous, what loading makes beside modules: {MEASURED}"
    )
    objects_setup: int = Field(default=12 * MIB, description=f"and setup, hooks and traces among it: {MEASURED}")
    objects: int = Field(default=18 * MIB, description=f"and the job from its first forward on: {MEASURED}")
    module_objects: int = Field(
        default=5 * KIB, description=f"objects of one module, its parameters' and scheme's among them: {MEASURED}"
    )
    code_loading: int = Field(default=7 * MIB, description=f"code that is first read while loading: {MEASURED}")
    code_setup: int = Field(default=17 * MIB, description=f"and in setup, all told: {MEASURED}")
    code: int = Field(default=26 * MIB, description=f"and in the job, all told: {MEASURED}")
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
    heap_freed_percent: int = Field(
        default=50,
        description="and of temporaries that an earlier step had and this one has not (0 to 100 seen, by what lies "
        f"above them): {MEASURED}",
    )
    copies_kept_percent: int = Field(
        default=3,
        description="free memory once save has made all copies, as a share of all their temporaries in blocks below "
        f"heap_block, one module after the other (2 to 5 seen); without a GPU: {MEASURED}",
    )
    packed_kept_percent: int = Field(
        default=17,
        description="the same for weights that are packed into int32 (15 to 25 in six runs, next to nothing in a "
        f"seventh): {MEASURED}",
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
