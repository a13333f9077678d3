"""The Serving record: what serving a model takes, as versioned JSON; and what was asked for."""

from typing import Literal

from pydantic import Field

from planner.compress.schema import CardSupport
from planner.fields import Engine, SplitMode
from planner.records import Record
from planner.serving.activations import Attention

SCHEMA_VERSION = 1

MAX_CONTEXT = 2**24
MAX_BATCH = 2**20
MAX_GPUS = 2**12


class ServeOptions(Record):
    """Everything that is asked about serving, but the model and the format of its weights."""

    context: int | None = Field(
        default=None, ge=1, le=MAX_CONTEXT, description="tokens of each sequence; null: 4096 or the model's most"
    )
    batch: int = Field(default=1, ge=1, le=MAX_BATCH, description="sequences in the cache at the same time")
    kv_dtype: str = Field(
        default="auto", description="auto: what the format makes of keys and values, else the engine's 16-bit type"
    )
    dtype: str = Field(default="bfloat16", description="type that the forward computes in")
    gpu: str | None = Field(default=None, description="name of a GPU, or its memory: 24GiB")
    bandwidth: int | None = Field(default=None, ge=1, description="bytes per second of one GPU's memory")
    gpus: int = Field(default=1, ge=1, le=MAX_GPUS)
    split: SplitMode | None = Field(default=None, description="null: layer for llama.cpp and ExLlama, tensor for vLLM")
    gpu_layers: int | None = Field(default=None, ge=0, description="llama.cpp's -ngl; null: all, and the output")
    cpu_bandwidth: int | None = Field(default=None, ge=1, description="bytes per second of the CPU's memory")
    engine: Engine | None = Field(default=None, description="null: the one that the format is made for")
    overhead: str | None = Field(default=None, description="one flat part instead of the engine's: 20% or 2GiB")
    reserve: dict[str, int] = Field(default_factory=dict, description="bytes of an overhead part, by its name")
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="vLLM's share of the card; null: its default"
    )
    attention: Attention = "flash"
    prefill_chunk: int | None = Field(
        default=None, ge=0, le=MAX_CONTEXT, description="tokens of a prefill step; 0: whole prompts; null: the engine's"
    )
    beyond_positions: bool = Field(default=False, description="look for contexts that the config does not allow")


class ModelSize(Record):
    """The model that is served; null where only its number of parameters is known."""

    name: str
    architecture: str | None
    parameters: int
    active_parameters: int | None
    max_positions: int | None


class WeightUse(Record):
    """Weights while serving."""

    format: str
    family: str
    bytes: int = Field(description="on all GPUs together, copies counted")
    cpu_bytes: int = Field(description="in CPU memory")
    file_bytes: int = Field(description="on disk")
    replicated_bytes: int = Field(description="part of `bytes` that is a copy of what another GPU holds")
    bits_per_weight: float
    by_unit: dict[str, int] = Field(description="parts of `bytes` plus `cpu_bytes`, copies left out")


class CacheUse(Record):
    """The cache of keys, values and states; null where the model's attention is not known."""

    dtype: str
    bytes: int | None = Field(description="on all GPUs together, copies counted")
    cpu_bytes: int | None
    bytes_per_token: int | None = Field(description="of one more token of one sequence at this context, all layers")
    state_bytes: int | None = Field(description="part of bytes that does not grow with the context")
    rule_bytes: int | None = Field(description="by the rule of guides: every head has keys and values of its own")


class ActivationUse(Record):
    """The highest memory of one forward."""

    bytes: int | None = Field(description="on all GPUs together")
    method: Literal["traced"] | None
    tokens: int | None = Field(description="tokens of a prefill step in each of its sequences")
    sequences: int | None
    rule_bytes: int | None = Field(description="by the rule of guides: a hidden state kept for every layer")


class OverheadPart(Record):
    """What is held beside weights, cache and activations, on each GPU."""

    name: str
    bytes: int = Field(description="on one GPU")
    source: str


class Overhead(Record):
    """All that is held beside weights, cache and activations."""

    bytes: int = Field(description="on all GPUs together")
    parts: tuple[OverheadPart, ...]


class GpuShare(Record):
    """One GPU. The parts that are known sum to the total."""

    total_bytes: int
    weights_bytes: int
    kv_cache_bytes: int | None
    activations_bytes: int | None
    overhead_bytes: int


class GpuFacts(Record):
    """The GPU that was asked about."""

    name: str
    memory_bytes: int
    bandwidth: int | None = Field(description="bytes per second")
    source: str


class SplitFacts(Record):
    """How the model lies on its devices; mode is null on one GPU that holds everything."""

    mode: SplitMode | None
    gpus: int
    gpu_layers: int | None = Field(description="decoder layers on GPUs")
    layers: int | None


class Speed(Record):
    """The ceiling that memory bandwidth sets to decoding."""

    bytes_per_step: int = Field(description="read by all GPUs together for one token of each sequence")
    cpu_bytes_per_step: int
    cpu_bandwidth: int | None = Field(description="bytes per second; null where the CPU reads nothing to speak of")
    seconds_per_step: float
    tokens_per_second_per_user: float
    tokens_per_second: float = Field(description="of all sequences of the batch together")
    word: str


class Serving(Record):
    """What serving takes: memory of every GPU with its parts, what fits, and how fast it can be."""

    schema_version: Literal[1] = 1
    model: ModelSize
    options: ServeOptions
    engine: Engine
    context: int
    batch: int
    weights: WeightUse
    kv_cache: CacheUse
    activations: ActivationUse
    overhead: Overhead
    gpu: GpuFacts | None
    split: SplitFacts
    per_gpu: GpuShare = Field(description="the fullest GPU")
    gpus: tuple[GpuShare, ...]
    fits: bool | None = Field(description="null where no GPU is given")
    spare_bytes: int | None = Field(description="left on the fullest GPU; negative where it does not fit")
    max_context: int | None = Field(description="longest context for this batch; 0: none; null: not known")
    max_batch: int | None = Field(description="most sequences at this context, prefilled together where not chunked")
    max_users: int | None = Field(description="most sequences of this context in the cache, prefilled one at a time")
    speed: Speed | None = Field(description="null where no bandwidth is known")
    card_support: CardSupport | None = Field(
        default=None,
        description="whether vLLM has kernels for the format on this card; null for other engines, for weights that "
        "are not quantized by a scheme, where no card is named, and where the model is known only by its size",
    )
    notes: tuple[str, ...]
