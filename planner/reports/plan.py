"""One plan, in every form."""

from functools import partial

from planner.compress.schema import Plan
from planner.reports import markdown, table
from planner.reports.forms import Formats, StepsShown, as_json, everywhere


def formats(steps: StepsShown = "folded") -> Formats[Plan]:
    """The forms of a plan. `steps` says which steps are folded into one line; JSON always holds all steps."""
    return {
        "table": partial(table.render, steps=steps),
        "json": as_json,
        "markdown": everywhere(partial(markdown.render, steps=steps)),
    }
