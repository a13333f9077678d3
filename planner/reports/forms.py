"""The forms in which a record can be written, and the functions that write them.

Each report has a table `FORMATS` from form to function for its record; a new form is a line in it.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from planner.records import Record

OutputFormat = Literal["table", "json", "markdown"]
DrawnFormat = Literal["svg", "png", "perfetto", "memory-viz"]
"""Forms of a plan's timeline (planner/pictures/exports.py)."""
PlanFormat = Literal["table", "json", "markdown", "svg", "png", "perfetto", "memory-viz"]

TOLD: Mapping[str, OutputFormat] = {"table": "table", "json": "json", "markdown": "markdown"}
DRAWN: Mapping[str, DrawnFormat] = {"svg": "svg", "png": "png", "perfetto": "perfetto", "memory-viz": "memory-viz"}
"""The formats of a plan: what a report writes, and what is drawn."""

StepsShown = Literal["folded", "distinct", "all"]
"""One line per kind of step, one per distinct step, or every step."""

R_contra = TypeVar("R_contra", contravariant=True)
R = TypeVar("R")


class Renderer(Protocol[R_contra]):
    """Writes a record as text, for a stdout of this width (None: as wide as needed), with or without colours."""

    def __call__(self, record: R_contra, /, *, width: int | None, color: bool) -> str: ...


Formats = Mapping[OutputFormat, Renderer[R]]


def everywhere(render: Callable[[R], str]) -> Renderer[R]:
    """Make a form of a function whose text does not depend on width and colours."""

    @wraps(render)
    def rendered(record: R, /, **_look: Any) -> str:
        return render(record)

    return rendered


@everywhere
def as_json(record: "Record") -> str:
    """The record itself as JSON, by its schema in docs/."""
    return record.model_dump_json(indent=1) + "\n"
