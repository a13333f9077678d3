"""The Plan record: the versioned JSON contract between the simulation and every reader of it."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from planner.compress.holdings import Owner
from planner.compress.host_schema import Disk, Host
from planner.compress.upgrade import SCHEMA_VERSION, upgraded
from planner.fields import PlanMethod
from planner.hardware.demand import Demand, Fits
from planner.hardware.machine import Machine
from planner.job import Job
from planner.notes import Note
from planner.records import Record
from planner.units import human_bytes
from planner.upstream import LLMCOMPRESSOR_VERSION
from planner.views import view

Phase = Literal[
    "load", "setup", "prepare", "calibrate", "compress", "propagate", "between", "finalize", "save", "script"
]
"""`between` two others, and what a `script` does outside of LLM Compressor: phases of rehearsals alone."""
Method = PlanMethod | Literal["rehearsed"]


class Owned(Record):
    """One named holding at a peak."""

    owner: str = Field(description="name, copies and role as one text, e.g. model.layers.0.mlp.down_proj Hessian")
    name: str = Field(description="the module that the bytes are of, or what else they are")
    role: str = Field(description="what they are to it, e.g. Hessian; empty for the thing itself")
    copies: int = Field(ge=1, description="how many equal modules the name stands for")
    kind: str
    bytes: int

    @classmethod
    def of(cls, owner: Owner, kind: str, nbytes: int) -> Self:
        """What `owner` holds."""
        return cls(owner=str(owner), name=owner.name, role=owner.role, copies=owner.copies, kind=kind, bytes=nbytes)


class GpuStep(Record):
    """GPU memory of one step, in bytes."""

    peak_bytes: int = Field(description="highest requested bytes within the step")
    peak_allocated_bytes: int = Field(
        description="the same in the allocator's blocks: 512 bytes and more, with what is too small to split off"
    )
    peak_reserved_bytes: int | None = Field(
        default=None, description="segments that the caching allocator holds; null where it was not simulated"
    )
    retries: int = Field(default=0, description="how often it gave segments back because the card had no more")
    end_bytes: int = Field(description="requested bytes still held when the step ends")
    by_kind: dict[str, int] = Field(description="parts of peak_bytes; they sum to it")
    largest: tuple[Owned, ...] = Field(description="the largest holdings at the peak")


class CpuStep(Record):
    """CPU memory of one step, in bytes: tensors only, without the Python process."""

    peak_bytes: int
    end_bytes: int
    by_kind: dict[str, int]
    largest: tuple[Owned, ...]


class Step(Record):
    """One step of the job, in time order."""

    index: int
    modifier: str | None = Field(
        description="class name of the modifier this pipeline run serves, joined by + when several"
    )
    subgraph: int | None = Field(description="number of the subgraph, from 1")
    of: int | None = Field(description="how many subgraphs there are")
    phase: Phase
    unit: str = Field(description="`head`, the sequential targets in the subgraph, or the phase")
    exact: bool = Field(description="false where the unit could not be traced and was estimated; notes say how")
    moved_to_gpu_bytes: int | None = Field(
        default=None, description="weights onloaded and batches fetched in this step; null in plans of before"
    )
    moved_from_gpu_bytes: int | None = Field(
        default=None, description="outputs stored and compressed weights written back; null in plans of before"
    )
    gpu: GpuStep
    cpu: CpuStep
    second_gpu: GpuStep | None = Field(
        default=None, description="the card on which activations wait, or AutoRound trains; null where there is none"
    )


class ModelFacts(Record):
    """Size of the model as transformers loads it, tied weights counted once."""

    name: str
    architecture: str
    parameters: int
    bytes: int
    not_loaded_parameters: int = Field(
        description="parameters that the checkpoint holds and transformers does not load"
    )


class GpuPeak(Record):
    """Highest over all steps."""

    peak_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int | None = Field(default=None, description="null where the allocator was not simulated")
    context_bytes: int | None = Field(default=None, description="what the CUDA context takes of the card")
    device_total_bytes: int | None = Field(
        default=None, description="reserved and context: what nvidia-smi shows on a card with room"
    )
    smallest_card_bytes: int | None = Field(
        default=None,
        description="the smallest card, as CUDA sees it, on which the job gets through, and on every larger one tried",
    )
    peak_step: int

    @property
    def peak(self) -> str:
        """`peak_bytes` for people, such as 4.22 GiB."""
        return human_bytes(self.peak_bytes)


class Verdict(Record):
    """What happens on the job's card."""

    outcome: Literal["through", "gives back", "out of memory"] = Field(
        description="through; through after giving cached segments back, which is slow; or torch.OutOfMemoryError"
    )
    retries: int = Field(default=0, description="how often segments are given back, on both cards together")
    second_retries: int = Field(default=0, description="how often of these on the second GPU")
    gpu: Literal[0, 1] = Field(default=0, description="the card that runs out: 1 is the plan's second GPU")
    step: int | None = Field(default=None, description="index of the step that runs out of memory")
    asked_bytes: int | None = Field(default=None, description="the tensor that it asks for")
    free_bytes: int | None = Field(default=None, description="what the driver has left then")


class CpuPeak(Record):
    """Highest over all steps."""

    peak_bytes: int
    peak_step: int

    @property
    def peak(self) -> str:
        """`peak_bytes` for people, such as 27.65 GiB."""
        return human_bytes(self.peak_bytes)


class DiskFacts(Record):
    """Weights that `load_offloaded_model` leaves on the disk."""

    weights_bytes: int = Field(description="weights that are read from the checkpoint's files whenever they are needed")
    written_bytes: int = Field(
        description="files that the job writes beside them before it saves: scales, zero points, weights that change"
    )


class RankFacts(Record):
    """The ranks of a torchrun job. The plan's other figures are those of one process and its card."""

    simulated: int = Field(description="number of the rank whose card takes most; its figures are the plan's")
    shared_bytes: int = Field(description="weights and qparams in shared CPU memory, at most: once for all ranks")
    all_bytes: int = Field(description="CPU memory of all ranks at most: what is shared once, the rest of each")


class RuleOfThumb(Record):
    """What the documented rule says: one layer (or the whole vision tower), twice that with Hessians."""

    cpu_bytes: int
    gpu_bytes: int


class Result(Record):
    """The compressed model: what it weighs, and what serving one sequence of it takes with vLLM on one GPU."""

    file_bytes: int = Field(description="tensors of the checkpoint, on disk")
    weights_bytes: int = Field(description="the same in GPU memory while serving")
    bits_per_weight: float = Field(description="average over all weights of the model")
    serving_bytes: int = Field(description="weights, KV cache, activations, CUDA context and graphs on one GPU")
    context: int = Field(description="tokens of that sequence")
    kv_dtype: str


class RehearsedScript(Record):
    """What was rehearsed, and how it ended."""

    path: str
    arguments: tuple[str, ...] = ()
    versions: dict[str, str] = Field(description="packages of the environment in which it ran")
    has_job: bool = Field(description="it called oneshot, and `job` is what it asked for")
    exit_code: int
    ended: str = Field(description="how it ended, in words")
    line: str | None = Field(default=None, description="the script's line at which it stopped")
    stopped: str | None = Field(default=None, description="the error's first line")
    held: tuple[Owned, ...] = Field(default=(), description="what held the card when it ran out of memory")
    seconds: float
    resident_bytes: int | None = Field(default=None, description="RAM that the rehearsal itself took, at most")


Support = Literal["yes", "weights alone", "not known", "no"]
"""weights alone: it runs, with activations as wide as they are."""


class CardSupport(Record):
    """Whether vLLM has kernels for a format on a card, as vLLM's documentation or its code has it."""

    support: Support
    format: str = Field(description="the format that decides")
    source: str


class Plan(Record):
    """One planned LLM Compressor job."""

    schema_version: Literal[3] = SCHEMA_VERSION
    llmcompressor: str = LLMCOMPRESSOR_VERSION
    torch: str | None = Field(
        default=None, description="the CUDA build of PyTorch that the GPU figures are modelled on; null: requests alone"
    )
    method: Method = "simulate"
    recipe: str = Field(description="name or path of the recipe")
    model: ModelFacts
    job: Job
    gpu: GpuPeak
    cpu: CpuPeak
    second_gpu: GpuPeak | None = Field(
        default=None, description="the card on which activations wait, or AutoRound trains; null where there is none"
    )
    other_gpus: int = Field(
        default=0, description="GPUs that must be there beside the first; of several, second_gpu is the fullest"
    )
    weights_on_disk: DiskFacts | None = Field(default=None, description="null where no weights stay on the disk")
    ranks: RankFacts | None = Field(default=None, description="null for a job of one process")
    verdict: Verdict | None = Field(default=None, description="null where the allocator was not simulated")
    steps: tuple[Step, ...]
    rule_of_thumb: RuleOfThumb | None = Field(default=None, description="null for a rehearsal")
    script: RehearsedScript | None = Field(default=None, description="null where nothing was rehearsed")
    machine: Machine | None = Field(default=None, description="what the plan is held against; null in plans of before")
    demands: tuple[Demand, ...] = Field(default=(), description="what the job asks of each resource of the machine")
    fits: Fits | None = Field(
        default=None,
        description="the worst of the demands, or no where the library would not finish; null where it was not judged",
    )
    result: Result | None = Field(
        default=None, description="null where a part of the model is planned, or a note says why"
    )
    card_support: CardSupport | None = Field(
        default=None, description="null where nobody said which card, or nothing is quantized"
    )
    strategy: str | None = Field(default=None, description="the strategy of a comparison; null for the job as asked")
    host: Host | None = Field(default=None, description="RAM as the process has it; null where it was not sized")
    disk: Disk | None = Field(default=None, description="null where it was not sized")
    notes: tuple[Note, ...]

    @property
    def answer(self) -> str:
        """Whether the machine can do it, as the report says it; `verdict` has the same in fields."""
        return str(view("answer", self))

    @property
    def advice(self) -> str:
        """What to do next, with the command to type."""
        return str(view("advice", self))

    @model_validator(mode="before")
    @classmethod
    def _as_saved_today(cls, plan: Any) -> Any:
        return upgraded(plan)
