"""The TrainingPlan record: what a training job takes, as versioned JSON; and what was asked for."""

from typing import Literal

from pydantic import Field

from planner.records import Record
from planner.training.optimizers import Optimizer
from planner.training.trace import Attention, Checkpointing

TrainMethod = Literal["full", "lora", "qlora"]
Precision = Literal["bf16-mixed", "fp16-mixed", "bf16", "fp32"]
Sharding = Literal["none", "zero1", "zero2", "zero3", "fsdp", "fsdp-grad-op"]
Offload = Literal["none", "optimizer", "optimizer+params"]
OffloadTo = Literal["cpu", "nvme"]


class TrainOptions(Record):
    """Everything that is asked about training, but the model."""

    method: TrainMethod = "full"
    optimizer: Optimizer = "adamw"
    precision: Precision = "bf16-mixed"
    seq_len: int = Field(default=2048, ge=1, le=2**24, description="tokens of a sample, padding included")
    batch_size: int = Field(default=1, ge=1, le=2**16, description="samples on one GPU in one forward")
    grad_accumulation: int = Field(default=1, ge=1, le=2**20, description="forwards before a step")
    attention: Attention = "flash"
    checkpointing: Checkpointing | None = Field(default=None, description="null: full for qlora, none otherwise")
    rank: int = Field(default=16, ge=1, le=2**16)
    targets: str = Field(default="all-linear", description="Linears that get an adapter")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the adapters")
    sharding: Sharding = "none"
    gpus: int = Field(default=1, ge=1, le=2**16)
    gpus_per_node: int = Field(default=8, ge=1, le=2**10)
    offload: Offload = "none"
    offload_to: OffloadTo = "cpu"
    gpu: str | None = Field(default=None, description="name of a GPU, or its memory: 24GiB")


class Part(Record):
    """A named part of a memory."""

    name: str
    bytes: int
    source: str = Field(description="how it is counted, or which library keeps it")


class Moment(Record):
    """What one GPU holds at one point of a step."""

    name: str
    total_bytes: int
    parts: tuple[Part, ...]


class Memory(Record):
    """What a node keeps outside of its GPUs: states that are offloaded, for all its processes."""

    total_bytes: int
    parts: tuple[Part, ...]


class TrainingChoice(Record):
    """One way to shard and offload the same job."""

    sharding: Sharding
    offload: Offload
    offload_to: OffloadTo | None
    per_gpu_bytes: int | None = Field(description="null where the libraries do not offer it")
    node_ram_bytes: int | None
    node_nvme_bytes: int | None
    fits: bool | None
    reason: str = Field(default="", description="why it is not offered")


class Trained(Record):
    """The model, and what of it is trained."""

    name: str
    architecture: str
    parameters: int
    trained_parameters: int
    trained_percent: float = Field(description="of all, adapters included")


class StepActivations(Record):
    """Activations of one micro batch on one GPU, from the traced forward and backward."""

    method: Literal["traced"] = "traced"
    kept_bytes: int = Field(description="kept by autograd when the forward is over, copies of weights left out")
    weight_copies_bytes: int = Field(description="16-bit copies of weights that autocast keeps with them")
    checkpointing: Checkpointing
    highest: str = Field(description="what runs at the highest point")


class TrainingPlan(Record):
    """What a training job takes, per GPU and per node."""

    schema_version: Literal[1] = 1
    model: Trained
    options: TrainOptions
    per_gpu: Moment
    moments: tuple[Moment, ...] = Field(description="the points of a step; the highest is per_gpu")
    activations: StepActivations
    node_ram: Memory
    node_nvme: Memory
    gpu_name: str | None
    gpu_memory_bytes: int | None
    fits: bool | None
    advice: str = Field(description="what would make it fit; empty where it fits or nothing is known to")
    choices: tuple[TrainingChoice, ...]
    rule: dict[str, int] | None = Field(description="the parameter guide's rule; null where it has no number")
    notes: tuple[str, ...]
