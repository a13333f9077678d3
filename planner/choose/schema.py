"""What `strategies`, `fit` and `rent` answer, as records: the JSON contracts."""

from typing import Any, Literal

from pydantic import Field

from planner.compress.schema import ModelFacts, Plan
from planner.hardware.demand import Demand, Fits, Resource
from planner.hardware.machine import Machine
from planner.job import Job
from planner.notes import Note
from planner.records import Record
from planner.upstream import LLMCOMPRESSOR_VERSION


class Choice(Record):
    """One way to run the job, planned, and whether the machine can."""

    strategy: str = Field(description="what it does, in a few words")
    changes: dict[str, Any] = Field(description="fields of the job that differ from the job as asked")
    recipe_changes: dict[str, Any] = Field(default_factory=dict, description="fields of the recipe's modifiers")
    samples: int
    seq_len: int
    is_same_result: bool = Field(
        default=True,
        description="the compressed model is the same but for rounding; false: fewer or shorter samples, errors that "
        "are not propagated, or other parts that are trained by themselves",
    )
    fits: Fits
    binds: Resource | None = Field(description="the resource that is used the most, of those that were said")
    demands: tuple[Demand, ...]
    moved_to_gpu_bytes: int = Field(description="weights onloaded and batches fetched, in the whole job")
    moved_from_gpu_bytes: int = Field(description="outputs stored and compressed weights written back")
    passes: int = Field(description="how often the calibration data go through the model")
    notes: tuple[Note, ...] = Field(default=(), description="what a reader must know that the job as asked does not")
    fails: str | None = Field(default=None, description="why LLM Compressor itself does not do this job on any machine")
    command: str = Field(description="the command that plans it")
    python: str = Field(description="the call of LLM Compressor that does it")

    def demand(self, resource: Resource) -> Demand | None:
        """What it asks of this resource."""
        return next((demand for demand in self.demands if demand.resource == resource), None)

    @property
    def moved_bytes(self) -> int:
        """Both ways together."""
        return self.moved_to_gpu_bytes + self.moved_from_gpu_bytes


class _Answer(Record):
    schema_version: Literal[1] = 1
    llmcompressor: str = LLMCOMPRESSOR_VERSION
    model: ModelFacts
    recipe: str
    job: Job
    machine: Machine
    notes: tuple[Note, ...] = ()


class Strategies(_Answer):
    """Every way to run the job, those that fit first, the one that moves least first among equals."""

    choices: tuple[Choice, ...]

    @property
    def best(self) -> Choice:
        return self.choices[0]


class Largest(Record):
    """The largest value of one option with which the job fits."""

    field: str
    value: int | None = Field(description="null where not even the smallest fits")
    limit: int = Field(description="the largest value that was tried")
    command: str | None = None


class Fit(_Answer):
    """Yes or no; for a no, the smallest changes that make it fit, each one planned."""

    fits: Fits
    answer: Choice = Field(description="the job as asked")
    fixes: tuple[Choice, ...] = Field(description="changes with which it fits, the smallest first")
    closest: tuple[Choice, ...] = Field(default=(), description="where nothing fits: what comes closest")
    gpus_of_recipe: int = Field(
        default=0, description="GPUs that the recipe spreads layers over, where nothing is missing but these; else 0"
    )
    largest: tuple[Largest, ...] = ()


class Offer(Record):
    """One machine of the catalogue, and the best way to run the job there."""

    machine: Machine
    choice: Choice


class Rent(_Answer):
    """Machines on which the job fits, the cheapest first; then near misses."""

    offers: tuple[Offer, ...]
    near_misses: tuple[Offer, ...]
    is_ranked_by_price: bool


def moved_to_gpu(plan: Plan) -> int:
    """Bytes that the whole job carries to its GPUs."""
    return plan.job.ranks * sum(step.moved_to_gpu_bytes or 0 for step in plan.steps)


def moved_from_gpu(plan: Plan) -> int:
    """Bytes that the whole job carries from its GPUs."""
    return plan.job.ranks * sum(step.moved_from_gpu_bytes or 0 for step in plan.steps)


def passes(plan: Plan) -> int:
    """How often the calibration data go through the model: once in each pass of each modifier's pipeline."""
    return len({(step.modifier, step.phase) for step in plan.steps if step.phase in ("calibrate", "propagate")})
