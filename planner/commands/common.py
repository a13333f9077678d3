"""What every sub-command does around its own work."""

import shutil
import sys
from typing import TYPE_CHECKING, TypedDict, TypeVar

if TYPE_CHECKING:
    from planner.reports.forms import Formats, OutputFormat

R = TypeVar("R")


NARROWEST, DIGITS = 40, 6
"""Columns; a COLUMNS of less, or with more digits, says nothing of a reader."""


class Look(TypedDict):
    """Width and colours for a report on this stdout, the keyword arguments of every table's `render`."""

    width: int | None
    color: bool


def look(output: str | None) -> Look:
    """The terminal's width and colours; for a pipe or a file no colours, and as wide as the table needs, or as COLUMNS
    says."""
    import os

    if output is not None or not sys.stdout.isatty():
        columns = os.environ.get("COLUMNS", "")
        is_size = columns.isascii() and columns.isdigit() and len(columns) < DIGITS and int(columns) >= NARROWEST
        return Look(width=int(columns) if is_size and output is None else None, color=False)
    return Look(width=shutil.get_terminal_size().columns, color="NO_COLOR" not in os.environ)


def rendered(formats: "Formats[R]", record: R, format: "OutputFormat", output: str | None) -> str:
    """The record in the requested form."""
    return formats[format](record, **look(output))
