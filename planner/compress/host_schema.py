"""What a job takes of the machine around the card: records of RAM as a process has it, and of disk. Bytes.

The figures are made in planner/sizing; the records lie here because a Plan carries them.
"""

from typing import Literal, get_args

from pydantic import Field, field_validator

from planner.fields import DType
from planner.records import Record

HostPhaseName = Literal[
    "load", "setup", "prepare", "calibrate", "compress", "propagate", "finalize", "save", "generate"
]
"""The plan's phases, and the generation that many scripts run afterwards."""

HostPart = Literal[
    "imports",
    "mapped checkpoint",
    "weights",
    "written weights",
    "activation cache",
    "compressed copies",
    "allocator",
    "calibration data",
    "tensors",
    "workers",
    "CUDA",
]
"""Whose the bytes are.

imports: Python, libraries and their code pages; mapped checkpoint: pages of the checkpoint's files that were read;
weights: parameters that are copies; written weights: pages of the mapping that were written, and so copied;
compressed copies: what save puts in place of weights; allocator: what malloc keeps of memory that was freed;
tensors: everything else that the plan's CPU steps count; workers: processes beside this one; CUDA: its host side.
"""

HOST_PARTS: tuple[HostPart, ...] = get_args(HostPart)
"""In reading order."""

LoadMode = Literal["mapped", "cast", "no mmap", "auto offload"]


class Loading(Record):
    """How a script loads the model. The defaults are `AutoModelForCausalLM.from_pretrained(model, dtype="auto")`.

    A mixture of experts loaded inside `load_quantizable_moe` is the job's `linearized`.
    """

    checkpoint_dtype: DType | None = Field(
        default=None, description="dtype of the checkpoint's tensors; null: the job's own, so that nothing is cast"
    )
    mmap: bool = Field(default=True, description="false: disable_mmap=True, or a file system where that is the default")
    available_ram_bytes: int | None = Field(
        default=None,
        ge=0,
        description='device_map="auto_offload" in load_offloaded_model: RAM that psutil calls available; null: no such',
    )
    extra_cpu_bytes: int = Field(default=5 * 10**9, ge=0, description="extra_cpu_mem of load_offloaded_model")
    files: int = Field(default=1, ge=1, description="files of the checkpoint; each is mapped on its own")
    downloads: bool = Field(default=False, description="the checkpoint comes from the Hub into its cache")

    def mode(self, dtype: DType) -> LoadMode:
        """What sets the shape of the load, for a model that is loaded in `dtype`."""
        if self.available_ram_bytes is not None:
            return "auto offload"
        if not self.mmap:
            return "no mmap"
        return "mapped" if self.checkpoint_dtype in (None, dtype) else "cast"


class HostSetting(Record):
    """What stands around the job on its machine, beside loading."""

    gpu: bool = Field(default=True, description="the process uses a GPU; false: it computes on the CPU")
    dataloader_workers: int = Field(default=0, ge=0, description="dataloader_num_workers of oneshot")
    repacks_moe: bool = Field(default=False, description="repack_moe before save")
    generates: bool = Field(default=False, description="dispatch_model and generate after oneshot")
    ranks: int = Field(default=1, ge=1, description="processes of torchrun on this machine")
    ram_limit_bytes: int | None = Field(default=None, ge=1, description="the machine's RAM, or its cgroup's memory.max")
    shm_bytes: int | None = Field(default=None, ge=1, description="size of /dev/shm; null: half of the RAM")
    keeps_output: bool = Field(default=True, description="the job saves; false: no output_dir")


class HostPhase(Record):
    """RAM of the process in one phase, at that of its steps which takes most."""

    phase: HostPhaseName
    resident_bytes: int = Field(description="what ps shows as RSS, workers included; parts sum to it")
    must_have_bytes: int = Field(
        description="without what the kernel can drop and read again: with less RAM the job is killed, with less than "
        "resident_bytes it reads weights from disk again and again"
    )
    parts: dict[HostPart, int] = Field(description="at the step with the most resident bytes")
    step: int | None = Field(default=None, description="index of that step in the plan; null for none of its")
    must_have_step: int | None = Field(default=None, description="index of the step that must have most")

    @field_validator("parts")
    @classmethod
    def _in_reading_order(cls, parts: dict[HostPart, int]) -> dict[HostPart, int]:
        return {part: parts[part] for part in HOST_PARTS if parts.get(part)}


class Host(Record):
    """RAM as the job's process has it, phase by phase."""

    loading: Loading
    setting: HostSetting
    mode: LoadMode
    phases: tuple[HostPhase, ...] = Field(description="in the order of the job")
    peak_resident_bytes: int
    peak_resident_phase: HostPhaseName
    peak_must_have_bytes: int
    peak_must_have_phase: HostPhaseName
    outcome: Literal["fits", "slow", "killed"] | None = Field(
        default=None, description="under ram_limit_bytes; null where no limit is known"
    )
    notes: tuple[str, ...] = ()


class Disk(Record):
    """What the job reads from and leaves on disk."""

    checkpoint_bytes: int = Field(description="tensors of the checkpoint's files that are read")
    download_cache_bytes: int = Field(description="the Hub's cache; 0 where the checkpoint is there already")
    offload_folder_bytes: int = Field(description="files for tensors that were written; the others are symlinks")
    offloaded_bytes: int = Field(default=0, description="weights that are read from disk whenever they are used")
    saved_checkpoint_bytes: int | None = Field(description="tensors of the result; null where they cannot be sized")
    saved_header_bytes: int | None = Field(default=None, description="headers of its safetensors files")
    saved_files: int | None = Field(default=None, description="shards of the result")
    notes: tuple[str, ...] = ()
