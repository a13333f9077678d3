"""One field of a job: how it is typed, said and measured. The fields themselves are in fields.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from planner.errors import JobError
from planner.spelling import AS_IT_IS, BYTES, Spelling

Panel = Literal["Calibration data", "How LLM Compressor runs", "How the model is loaded", "The machine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobField:
    """One field of a job."""

    name: str
    """The record's name for it."""
    default: Any
    typed: Any
    """What the command line parses: a type, or a Literal of words."""
    panel: Panel
    help: str
    option: str
    metavar: str | None = None
    """What stands for the value in the help; None where the help lists the words. A flag has no value."""
    spelling: Spelling = AS_IT_IS
    meter: str = ""
    """The meter's option (tests/meter/README.md), where it differs from `option`."""
    meter_spelling: Spelling | None = None
    unusual: str = ""
    """What the summary says where the value is not the default; `{}` is the value. Empty: it always says it."""
    decides_graph: bool = False
    """The model, its units or its trace depend on it."""
    said_in_help: bool = False
    """The help says in words what holds where nothing is typed."""
    metered: bool = True
    """The meter's command line has it."""
    is_recent: bool = False
    """Runs of the meter that are older than the field do not say it: they ran with its default."""
    measurable: bool = True
    """`planner measure` can run a job that differs in it."""

    @property
    def typed_default(self) -> Any:
        """The default as typed; None where nothing typed is told apart from the default."""
        return None if self.said_in_help else self.spelling.write(self.default)

    @property
    def is_flag(self) -> bool:
        """The option takes no value."""
        return self.typed is bool

    def parse(self, typed: Any) -> Any:
        """The record's value for what was typed. Raises JobError that names the option."""
        try:
            return self.spelling.read(typed)
        except JobError as error:
            raise JobError(f"{self.option}: {error}") from None

    def summary_words(self, value: Any) -> str:
        """What the summary says of this value because it is not the default; an empty text where it says nothing."""
        if not self.unusual or value == self.default:
            return ""
        if self.spelling is BYTES:
            value = self.spelling.write(value)
        return self.unusual.format(", ".join(value) if isinstance(value, tuple) else value)

    @property
    def _meter_option(self) -> str:
        return self.meter or self.option

    def meter_words(self, value: Any) -> list[str]:
        """The meter's arguments for this value: an empty list for a flag that is off and for None."""
        if not self.metered or (self.is_recent and value == self.default):
            return []
        word = (self.meter_spelling or self.spelling).write(value)
        if word is None or word is False:
            return []
        return [self._meter_option] if word is True else [self._meter_option, str(word)]

    def from_meter(self, job: Mapping[str, Any]) -> Any:
        """The value in the `job` of the meter's JSON, whose keys are its options. KeyError where it is not there.

        A flag may be missing, and so may a recent field: the run is older.
        """
        key = self._meter_option.removeprefix("--").replace("-", "_")
        if not self.metered or ((self.is_flag or self.is_recent) and key not in job):
            return self.default
        return (self.meter_spelling or self.spelling).read(job[key])
