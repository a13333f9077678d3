"""The job that a plan is for, in LLM Compressor's own words and with its defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from planner.cuda.settings import AllocatorSettings
from planner.errors import JobError
from planner.fields import JOB_FIELDS, DType, OffloadDevice, Pipeline, Weights
from planner.hardware import find_gpu, named_gpu
from planner.hardware.gpus import CUDA_CONTEXT
from planner.hardware.machine import Machine
from planner.units import GIB

# A larger number is a typing mistake, not a job. The limits bound the time and memory that planning itself takes.
MAX_SAMPLES = 10**7
MAX_TOKENS = 2**20
MAX_BATCH = 2**16
MAX_LAYERS = 10**4
MAX_SIDE = 2**14
MAX_RANKS = 2**10

DEFAULT_SM = 90
"""Compute capability of a card of which only the size is known."""


def dtype_named(text: str) -> DType:
    """The dtype of this name. Raises JobError for a dtype that models do not compute in."""
    for dtype in get_args(DType):
        if text == dtype:
            return cast(DType, dtype)
    raise JobError(f"models compute in {', '.join(get_args(DType))}, not in {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The part of a job that decides which model is built: the dtype of its weights, and how many layers it keeps."""

    dtype: DType = "bfloat16"
    layers: int | None = None
    """Layers of the text decoder; None for all of them."""
    vision_layers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """The part of a job that decides the sizes of one batch of equal samples."""

    batch_size: int = 1
    seq_len: int = 2048
    """Tokens of each sample, those of images and audio included."""
    images: int = 0
    """Images of each sample."""
    image_size: tuple[int, int] = (448, 448)
    """Height and width in pixels."""
    audios: int = 0
    """Audio clips of each sample."""
    audio_seconds: int = 30
    """Length of each."""


if TYPE_CHECKING:  # arguments are checked as pydantic declares them
    from pydantic._internal._model_construction import ModelMetaclass as _Clear
else:

    class _Clear(type(BaseModel)):
        """A call of the class says in one line what is wrong with its values; `model_validate` stays pydantic's."""

        def __call__(cls, **values: Any) -> Any:
            try:
                return super().__call__(**values)
            except ValidationError as error:
                raise JobError("; ".join(sentence(detail) for detail in error.errors())) from None


def sentence(detail: ErrorDetails, spelled: Callable[[str], str] = str) -> str:
    """One mistake in words: the field as `spelled`, its value, and what it should be."""
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not detail["loc"]:
        return message
    value = f" {detail['input']}" if isinstance(detail["input"], int | float | str) else ""
    return f"{spelled(str(detail['loc'][0]))}{value}: {message}{_range(detail)}"


def _range(detail: ErrorDetails) -> str:
    """The other end of the field's range, where its value is below the least or beyond the most."""
    name, other = str(detail["loc"][0]), _OTHER_END.get(detail["type"])
    field = Job.model_fields.get(name)
    ends = [getattr(each, other[0]) for each in field.metadata if hasattr(each, other[0])] if field and other else []
    return f", {other[1]} {ends[0]:,}" if other and ends else ""


_OTHER_END = {"greater_than_equal": ("le", "at most"), "less_than_equal": ("ge", "at least")}


class Job(BaseModel, metaclass=_Clear):
    """The options of one `oneshot` call and of the machine it runs on.

    Defaults are those of `llmcompressor.oneshot` (args/dataset_arguments.py, 0.14.0.1), except
    seq_len: the library does not truncate when it is unset, so a plan needs a number.

    A card that is named by `gpu` brings its memory and its compute capability, where these are not given. Raises
    JobError for a value out of its range, a card that nobody knows, and a PYTORCH_ALLOC_CONF that PyTorch refuses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=512, ge=1, le=MAX_SAMPLES)
    seq_len: int = Field(default=2048, ge=1, le=MAX_TOKENS)
    batch_size: int = Field(default=1, ge=1, le=MAX_BATCH)
    pipeline: Pipeline = "independent"
    sequential_targets: tuple[str, ...] | None = None
    targets_per_subgraph: int = Field(default=1, ge=1, le=MAX_LAYERS)
    offload_device: OffloadDevice = "cpu"
    ranks: int = Field(default=1, ge=1, le=MAX_RANKS)
    """Processes of a torchrun job."""
    propagate_error: bool = True
    prefetch: bool = False
    progress_bars: bool = True
    calibrate_all_experts: bool = True
    linearized: bool = False
    dtype: DType = "bfloat16"
    weights: Weights = "cpu"
    """Where they lie while no subgraph needs them."""
    ram_for_weights_bytes: int | None = Field(default=None, ge=1)
    """With weights on disk: what may lie in CPU memory all the same; None for nothing."""
    gpu: str | None = None
    """Name of the card; None where only its size is known."""
    gpu_memory_bytes: int = Field(default=80 * GIB, ge=1)
    """What CUDA has of the card: less than its label says."""
    sm: int | None = Field(default=None, ge=30, le=999)
    """Compute capability, 90 for 9.0; None where nobody said."""
    alloc_conf: str = ""
    """PYTORCH_ALLOC_CONF; empty for PyTorch's defaults."""
    cuda_context_bytes: int = Field(default=CUDA_CONTEXT, ge=0, le=2**40)
    images: int = Field(default=0, ge=0, le=1024)
    image_size: tuple[int, int] = (448, 448)
    audios: int = Field(default=0, ge=0, le=1024)
    audio_seconds: int = Field(default=30, ge=1, le=3600)
    loss_mask: bool = False
    """Samples carry a loss mask, and use_loss_mask is set."""
    layers: int | None = Field(default=None, ge=1, le=MAX_LAYERS)
    vision_layers: int | None = Field(default=None, ge=1, le=MAX_LAYERS)

    @model_validator(mode="before")
    @classmethod
    def _card_brings_its_figures(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(text := values.get("gpu"), str):
            return values
        if named_gpu(text) is None and "gpu_memory_bytes" in values:
            return values  # a card of which the job says all that is needed
        card = find_gpu(text)
        known = {"gpu_memory_bytes": card.memory_bytes, "sm": card.sm}
        return {**known, **values, "gpu": card.name if named_gpu(text) else None}

    @field_validator("image_size")
    @classmethod
    def _sides_are_sensible(cls, size: tuple[int, int]) -> tuple[int, int]:
        if not all(1 <= side <= MAX_SIDE for side in size):
            raise ValueError(f"image sides must be between 1 and {MAX_SIDE} pixels")
        return size

    @field_validator("alloc_conf")
    @classmethod
    def _pytorch_takes_it(cls, text: str) -> str:
        AllocatorSettings.parse(text)
        return text

    @model_validator(mode="after")
    def _batch_fits_samples(self) -> Self:
        if self.samples < self.ranks:
            raise ValueError(f"ranks {self.ranks} are more than samples {self.samples}; each needs one")
        if self.rank_samples < self.batch_size:
            each = f" of each of {self.ranks} ranks" if self.ranks > 1 else ""
            raise ValueError(f"batch_size {self.batch_size} is larger than samples {self.rank_samples}{each}")
        return self

    def on(self, machine: Machine) -> Self:
        """The same job on this machine's card; unchanged where the machine has none, or nobody said its size."""
        if machine.gpu_memory_bytes is None:
            return self
        sm = self.sm if machine.sm is None else machine.sm
        card = {"gpu": machine.gpu, "gpu_memory_bytes": machine.gpu_memory_bytes, "sm": sm}
        return self.model_validate({**self.model_dump(exclude_unset=True), **card})

    @model_validator(mode="after")
    def _ranks_have_a_card_each(self) -> Self:
        if self.ranks > 1 and self.offload_device == "gpu:1":
            raise ValueError("offload_device is the card of rank 1 in a job with ranks; leave it out")
        return self

    @model_validator(mode="after")
    def _ram_is_for_what_may_be_on_disk(self) -> Self:
        if self.ram_for_weights_bytes is not None and self.weights != "disk":
            raise ValueError('ram_for_weights_bytes says what does not go to the disk, so it needs weights "disk"')
        return self

    @property
    def capability(self) -> int:
        """Compute capability that the job is planned for: the card's, or else the default."""
        return DEFAULT_SM if self.sm is None else self.sm

    @property
    def allocator_settings(self) -> AllocatorSettings:
        """What PYTORCH_ALLOC_CONF tells PyTorch's allocator."""
        return AllocatorSettings.parse(self.alloc_conf)

    @property
    def has_second_gpu(self) -> bool:
        """Activations wait on a card of their own."""
        return self.offload_device == "gpu:1"

    @property
    def decides_graph(self) -> tuple[Any, ...]:
        """The values on which a model's graph depends, as a key: jobs that share them share the graph."""
        return tuple(getattr(self, field.name) for field in JOB_FIELDS if field.decides_graph)

    @property
    def build(self) -> Build:
        """The model that this job compresses."""
        return Build(dtype=self.dtype, layers=self.layers, vision_layers=self.vision_layers)

    @property
    def offloads_on_gpu(self) -> bool:
        """Modules are offloaded (the basic pipeline offloads none), and where they lie is the GPU."""
        return self.weights == "gpu" and self.pipeline != "basic"

    @property
    def decides_saved(self) -> tuple[Any, ...]:
        """The values on which the saved files depend, as a key, beside model and recipe.

        The last two: hooks in layers that are trained have matrices of their own, and which layers those are hangs on
        the targets, and on what runs before.
        """
        return self.build, self.offloads_on_gpu, self.pipeline, self.sequential_targets

    @property
    def batch_shape(self) -> BatchShape:
        """A full calibration batch."""
        return BatchShape(
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            images=self.images,
            image_size=self.image_size,
            audios=self.audios,
            audio_seconds=self.audio_seconds,
        )

    @property
    def has_media(self) -> bool:
        """Samples have more than text, so that towers and projectors run."""
        return bool(self.images or self.audios)

    @property
    def rank_samples(self) -> int:
        """Samples of the rank that has most: datasets/utils.py get_rank_partition deals them out evenly."""
        return -(-self.samples // self.ranks)

    @property
    def batches(self) -> int:
        """Number of calibration batches of one rank; the last one may be smaller (DataLoader keeps it)."""
        return -(-self.rank_samples // self.batch_size)

    @property
    def last_batch_size(self) -> int:
        """Samples in the last batch."""
        return self.rank_samples - (self.batches - 1) * self.batch_size
