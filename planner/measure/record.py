"""The Measurement record: the versioned JSON of one measured job, whatever measured it."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from planner.job import Job
from planner.records import Record

Source = Literal["device", "log", "meter"]
"""`device`: planner measure on an accelerator. `log`: read from a log. `meter`: the counting device (tests/meter)."""
MeasuredPhase = Literal[
    "load", "setup", "prepare", "calibrate", "compress", "propagate", "between", "finalize", "save", "oneshot"
]


class GpuFigures(Record):
    """Peaks within one step, in bytes; null where the source does not know."""

    requested_bytes: int | None = Field(default=None, description="what tensors asked for")
    allocated_bytes: int | None = Field(default=None, description="the same in the allocator's 512-byte blocks")
    reserved_bytes: int | None = Field(default=None, description="what the caching allocator held from the driver")
    device_bytes: int | None = Field(
        default=None,
        description="in use on the whole card, as the driver says: sampled, and other processes' memory counts",
    )
    end_allocated_bytes: int | None = Field(default=None, description="still allocated when the step ended")
    retries: int = Field(default=0, description="how often the allocator had to give memory back to get more")
    by_kind: dict[str, int] | None = Field(default=None, description="parts of requested_bytes (meter only)")


class CpuFigures(Record):
    """Peaks within one step, in bytes."""

    rss_bytes: int | None = Field(default=None, description="resident memory of the whole process, sampled")
    tensor_bytes: int | None = Field(default=None, description="tensors alone (meter only)")
    by_kind: dict[str, int] | None = Field(default=None, description="parts of tensor_bytes (meter only)")


class MeasuredStep(Record):
    """One step in time order, named as in the plan."""

    index: int
    modifier: str | None
    subgraph: int | None
    of: int | None
    phase: MeasuredPhase
    unit: str
    seconds: float | None = None
    partial: bool = Field(default=False, description="true for the step in which the job stopped")
    running: bool = Field(
        default=False, description="true where the figures are peaks since the start of the job (a log's)"
    )
    gpu: GpuFigures = GpuFigures()
    cpu: CpuFigures = CpuFigures()


class Card(Record):
    """The accelerator."""

    name: str
    total_bytes: int
    free_bytes: int | None = Field(default=None, description="free before the job, with the CUDA context there")
    driver: str | None = None
    capability: str | None = Field(default=None, description="compute capability, like 9.0")


class HostFacts(Record):
    """The machine's memory before the job."""

    available_bytes: int | None = None
    baseline_rss_bytes: int | None = Field(
        default=None, description="resident memory with all libraries loaded, before the model was built"
    )


class MeasuredModel(Record):
    """The model that was measured; `config` is enough to plan it again."""

    name: str
    architecture: str = ""
    parameters: int | None = None
    bytes: int | None = None
    config: dict[str, Any] | None = None


class MeasuredRecipe(Record):
    """The recipe that was run; `text` is enough to plan it again."""

    name: str
    text: str | None = None


class ModuleMetric(Record):
    """What the library's METRIC lines say of one compressed module."""

    name: str
    seconds: float | None = None
    error: float | None = None
    allocated_bytes: int | None = Field(default=None, description="highest since the start of the job")


class Measurement(Record):
    """One measured LLM Compressor job."""

    schema_version: Literal[1] = 1
    kind: Literal["measurement"] = "measurement"
    source: Source
    complete: bool
    stopped: str | None = Field(default=None, description="why and where the job ended early")
    versions: dict[str, str] = Field(default_factory=dict)
    card: Card | None = None
    host: HostFacts = HostFacts()
    model: MeasuredModel | None = None
    recipe: MeasuredRecipe | None = None
    job: Job | None = None
    collected: bool = Field(default=False, description="Python's garbage collector was run at fixed points")
    steps: tuple[MeasuredStep, ...] = ()
    modules: tuple[ModuleMetric, ...] = Field(default=(), description="from a log: one entry per compressed module")
    notes: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _job_knows_its_progress_bars(cls, record: Any) -> Any:
        """Records of before a job knew whether it had bars say it beside the job."""
        if not isinstance(record, Mapping) or "progress_bars" not in record:
            return record
        others = {name: value for name, value in record.items() if name != "progress_bars"}
        job = record.get("job")
        if isinstance(job, Mapping):
            others["job"] = {"progress_bars": record["progress_bars"], **job}
        return others
