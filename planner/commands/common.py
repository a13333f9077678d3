"""What every sub-command does around its own work."""

import shutil
import sys
from typing import TYPE_CHECKING, TypedDict, TypeVar

if TYPE_CHECKING:
    from planner.reports.forms import Formats, OutputFormat

R = TypeVar("R")


class Look(TypedDict):
    """Width and colours for a report on this stdout, the keyword arguments of every table's `render`."""

    width: int | None
    color: bool


def look(output: str | None) -> Look:
    """The terminal's width and colours; for a pipe or a file no colours, and as wide as the table needs."""
    if output is not None or not sys.stdout.isatty():
        return Look(width=None, color=False)
    import os

    return Look(width=shutil.get_terminal_size().columns, color="NO_COLOR" not in os.environ)


def rendered(formats: "Formats[R]", record: R, format: "OutputFormat", output: str | None) -> str:
    """The record in the requested form."""
    return formats[format](record, **look(output))
