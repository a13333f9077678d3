"""What every sub-command does around its own work."""

import shutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from planner.commands.options import Format


class Look(TypedDict):
    """How a report is drawn on this stdout: keyword arguments of every table's `render`."""

    width: int | None
    color: bool


def look(output: str | None) -> Look:
    """The terminal's width and colours; for a pipe or a file no colours, and as wide as the table needs."""
    if output is not None or not sys.stdout.isatty():
        return Look(width=None, color=False)
    import os

    return Look(width=shutil.get_terminal_size().columns, color="NO_COLOR" not in os.environ)


def rendered(report: ModuleType, result: Any, format: "Format", output: str | None) -> str:
    """The result in the asked form, by a report that has `render`, `render_markdown` and `render_json`."""
    if format == "json":
        return str(report.render_json(result))
    if format == "markdown":
        return str(report.render_markdown(result))
    return str(report.render(result, **look(output)))
