"""What is asked: one LLM Compressor job, in LLM Compressor's own words and defaults."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from planner.fields import DType, OffloadDevice, Pipeline
from planner.units import GIB

# Beyond these a number is a slip of the keyboard, not a job: they bound time and memory here.
MAX_SAMPLES = 10**7
MAX_TOKENS = 2**20
MAX_BATCH = 2**16
MAX_LAYERS = 10**4
MAX_SIDE = 2**14


class Job(BaseModel):
    """The options of one `oneshot` call and of the machine it runs on.

    Defaults are those of `llmcompressor.oneshot` (args/dataset_arguments.py, 0.14.0.1), except
    seq_len: the library does not truncate when it is unset, so a plan needs a number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=512, ge=1, le=MAX_SAMPLES)
    seq_len: int = Field(default=2048, ge=1, le=MAX_TOKENS)
    batch_size: int = Field(default=1, ge=1, le=MAX_BATCH)
    pipeline: Pipeline = "independent"
    sequential_targets: tuple[str, ...] | None = None
    targets_per_subgraph: int = Field(default=1, ge=1, le=MAX_LAYERS)
    offload_device: OffloadDevice = "cpu"
    propagate_error: bool = True
    prefetch: bool = False
    calibrate_all_experts: bool = True
    linearized: bool = False
    dtype: DType = "bfloat16"
    gpu_memory_bytes: int = Field(default=80 * GIB, ge=1)
    images: int = Field(default=0, ge=0, le=1024)
    image_size: tuple[int, int] = (448, 448)
    layers: int | None = Field(default=None, ge=1, le=MAX_LAYERS)
    vision_layers: int | None = Field(default=None, ge=1, le=MAX_LAYERS)

    @field_validator("image_size")
    @classmethod
    def _sides_are_sensible(cls, size: tuple[int, int]) -> tuple[int, int]:
        if not all(1 <= side <= MAX_SIDE for side in size):
            raise ValueError(f"image sides must be between 1 and {MAX_SIDE} pixels")
        return size

    @model_validator(mode="after")
    def _batch_fits_samples(self) -> Self:
        if self.samples < self.batch_size:
            raise ValueError(f"batch_size {self.batch_size} is larger than samples {self.samples}")
        return self

    @property
    def batches(self) -> int:
        """Number of calibration batches; the last one may be smaller (DataLoader keeps it)."""
        return -(-self.samples // self.batch_size)

    @property
    def last_batch_size(self) -> int:
        """Samples in the last batch."""
        return self.samples - (self.batches - 1) * self.batch_size
