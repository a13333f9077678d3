"""What `planner drift` found: the JSON contract between comparing and reporting."""

from typing import Literal

from pydantic import Field, computed_field

from planner.records import Record

DriftFigure = Literal["requested", "reserved", "cpu"]


class DriftStep(Record):
    """One figure of one step that the plan has wrong."""

    modifier: str | None
    subgraph: int | None
    of: int | None
    phase: str
    unit: str
    figure: DriftFigure
    rehearsed_bytes: int
    planned_bytes: int
    part: str = Field(description="the part of the peak that explains most of it; reserved bytes have no parts")
    part_rehearsed_bytes: int
    part_planned_bytes: int
    held: tuple[str, ...] = Field(description="largest holdings of that part in the rehearsal: the release's own lines")
    planned: tuple[str, ...] = Field(description="largest holdings of that part in the plan")
    cited: tuple[str, ...] = Field(description="functions of the release that plans are for, which the plan follows")

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented form
    @property
    def ratio(self) -> float:
        """Planned by rehearsed."""
        return self.planned_bytes / max(1, self.rehearsed_bytes)


class DriftWorst(Record):
    """Of one figure, over all steps of a job."""

    figure: DriftFigure
    share: float = Field(description="planned by rehearsed, less one; 0 for differences of up to 4 MiB")
    allowed: float


class DriftOfJob(Record):
    """One job, rehearsed and planned."""

    name: str
    model: str
    recipe: str
    options: str = Field(description="as planner plan takes them")
    steps: int = Field(description="steps that were compared")
    worst: tuple[DriftWorst, ...]
    off: tuple[DriftStep, ...]
    only_rehearsed: tuple[str, ...] = Field(description="steps that the plan does not have")
    only_planned: tuple[str, ...] = Field(description="steps that the release does not have")
    collected_bytes: int = Field(
        default=0,
        description="CPU memory of transforms' matrices that the plan has in a step and Python had collected, at most",
    )
    stopped: str | None = Field(default=None, description="why the release did not come to the job's end")
    seconds: float

    @property
    def is_off(self) -> bool:
        """The plan does not hold for this release."""
        return bool(self.off or self.only_rehearsed or self.only_planned or self.stopped)


class Drift(Record):
    """Every job, for one environment."""

    schema_version: Literal[1] = 1
    planned_for: str = Field(description="the release of LLM Compressor that plans are for")
    versions: dict[str, str] = Field(description="what the environment has")
    planned_with: dict[str, str] = Field(description="what planner's own environment has: plans are traced with it")
    jobs: tuple[DriftOfJob, ...]

    @property
    def is_off(self) -> bool:
        """At least one plan does not hold."""
        return any(job.is_off for job in self.jobs)
