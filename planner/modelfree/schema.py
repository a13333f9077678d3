"""What a model-free job takes: the record that reports and programs read."""

from typing import Literal

from pydantic import Field

from planner.hardware.demand import Demand, Fits
from planner.hardware.machine import Machine
from planner.notes import Note
from planner.records import Record

Where = Literal["gpu", "cpu"]


class FileUse(Record):
    """One file of the checkpoint, as one worker takes it."""

    file: str
    loaded_bytes: int = Field(description="tensors that are read, partners in other files included")
    foreign: int = Field(description="of them, tensors that lie in other files")
    quantized: int = Field(description="weights that are quantized")
    peak_bytes: int = Field(description="requested on the device at most; on the CPU without the mapped file")
    at: str = Field(description="the weight that is worked on then; empty: while the file is loaded")
    parts: dict[str, int] = Field(description="what the peak is, by kind; sums to peak_bytes")
    estimate_bytes: int = Field(description="what the library's own TensorProfiler says, by which it schedules")
    saved_bytes: int = Field(description="the file that is written, to the byte")


class ModelFreeGpu(Record):
    """One card."""

    files_at_once: int = Field(description="files that are worked on at a time, at most")
    requested_bytes: int = Field(description="by the tensors of so many files, the largest ones, at their peaks")
    parts: dict[str, int]
    reserved_bytes: int = Field(description="by PyTorch's allocator on a card with room")
    context_bytes: int
    smallest_card_bytes: int = Field(description="on which the job gets through, one file at a time")

    @property
    def device_total_bytes(self) -> int:
        """Reserved, and the CUDA context."""
        return self.reserved_bytes + self.context_bytes


class ModelFreeHost(Record):
    """RAM of the process."""

    resident_bytes: int
    must_have_bytes: int = Field(description="without pages of files, which the kernel can drop")
    parts: dict[str, int] = Field(description="sums to resident_bytes")


class ModelFreeDisk(Record):
    """Files that are read and written."""

    read_bytes: int = Field(description="safetensors, and all other files, which are copied")
    tensor_bytes: int = Field(description="of the result")
    header_bytes: int
    index_bytes: int = Field(description="model.safetensors.index.json of the result")
    copied_bytes: int = Field(description="other files; config.json grows by its quantization_config")
    files: int

    @property
    def safetensors_bytes(self) -> int:
        """All safetensors of the result, to the byte."""
        return self.tensor_bytes + self.header_bytes

    @property
    def written_bytes(self) -> int:
        """All that the job writes, config.json's new part left out."""
        return self.safetensors_bytes + self.index_bytes + self.copied_bytes


class ModelFreePlan(Record):
    """A `model_free_ptq` call, planned."""

    model: str
    scheme: str
    ignore: tuple[str, ...] = ()
    converter: str | None = None
    device: Where
    max_workers: int
    llmcompressor_version: str
    checkpoint_bytes: int = Field(description="tensors of the checkpoint")
    quantized: int = Field(description="weights that are quantized")
    files: tuple[FileUse, ...]
    gpu: ModelFreeGpu | None
    host: ModelFreeHost
    disk: ModelFreeDisk
    notes: tuple[Note, ...]
    machine: Machine | None = None
    demands: tuple[Demand, ...] = ()
    fits: Fits | None = None
