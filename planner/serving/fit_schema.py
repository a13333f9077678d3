"""What `planner formats` and `planner bpw` answer, as versioned JSON."""

from typing import Literal

from pydantic import Field

from planner.compress.schema import CardSupport
from planner.records import Record
from planner.serving.schema import GpuFacts, ModelSize, ServeOptions

SCHEMA_VERSION = 1


class FormatRow(Record):
    """One format; null where it cannot hold the model, or no GPU is given."""

    name: str
    family: str
    summary: str
    problem: str | None = Field(default=None, description="why the format cannot hold or serve the model")
    engine: str | None = None
    file_bytes: int | None = None
    weights_bytes: int | None = Field(default=None, description="weights on all GPUs together")
    cpu_bytes: int | None = Field(default=None, description="weights in CPU memory")
    bits_per_weight: float | None = Field(default=None, description="average over all weights of the model")
    total_bytes: int | None = Field(default=None, description="the fullest GPU, at this context and batch")
    fits: bool | None = None
    spare_bytes: int | None = None
    max_context: int | None = None
    all_positions: bool | None = Field(default=None, description="max_context is all that the config allows")
    tokens_per_second: float | None = Field(default=None, description="ceiling of decoding, all sequences together")
    speed_word: str | None = None
    notes: tuple[str, ...] = ()


class FormatTable(Record):
    """Every format of one model."""

    schema_version: Literal[1] = 1
    model: ModelSize
    options: ServeOptions
    context: int
    batch: int
    gpu: GpuFacts | None
    formats: tuple[FormatRow, ...]


class LadderChoice(Record):
    """What a quantizable tensor may be kept as."""

    name: str
    bits_per_weight: float = Field(description="of the quantizable tensors, in the file")
    gpu_bytes: int = Field(description="of all quantizable tensors at this choice")


class Budget(Record):
    """The GPU's memory, divided. The parts sum to memory_bytes."""

    memory_bytes: int
    kv_cache_bytes: int
    activations_bytes: int
    overhead_bytes: int
    kept_bytes: int = Field(description="weights that every choice keeps the same: norms, mostly head and embeddings")
    quantizable_bytes: int = Field(description="what is left for the quantizable weights")


class KeptRow(Record):
    """Weights that every choice keeps the same."""

    unit: str
    type: str
    gpu_bytes: int
    cpu_bytes: int


class MixtureRow(Record):
    """Tensors of one role with one choice."""

    role: str
    layers: str
    choice: str
    tensors: int
    weights: int
    bits_per_weight: float
    file_bytes: int
    gpu_bytes: int


class Mixture(Record):
    """The budget, spent in the documented order. The rows sum to gpu_bytes and file_bytes."""

    order: tuple[str, ...] = Field(description="who is raised first in each round")
    rows: tuple[MixtureRow, ...]
    gpu_bytes: int
    file_bytes: int
    left_bytes: int = Field(description="of the budget")
    bits_per_weight: float = Field(description="of the quantizable weights")
    model_file_bytes: int
    model_bits_per_weight: float = Field(description="average over all weights of the model")
    max_context: int | None
    tokens_per_second: float | None


class BitsPlan(Record):
    """The most bits per weight that fit, the formats under it, and a mixture that uses it up."""

    schema_version: Literal[1] = 1
    model: ModelSize
    options: ServeOptions
    gpu: GpuFacts
    engine: str
    context: int
    batch: int
    choices: tuple[LadderChoice, ...]
    quantizable_weights: int
    kept: tuple[KeptRow, ...] = Field(description="not quantizable; their gpu_bytes sum to budget.kept_bytes")
    budget: Budget
    bits_per_weight: float = Field(description="most average bits of the quantizable weights, scales included")
    below: tuple[FormatRow, ...] = Field(description="formats that fit, the largest of each family")
    mixture: Mixture
    card_support: CardSupport | None = Field(
        default=None, description="whether vLLM has kernels for all choices on this card; as in Serving"
    )
    notes: tuple[str, ...]
