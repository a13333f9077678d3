"""planner models: the presets."""

from planner.commands.common import rendered
from planner.commands.options import FormatOption, OutputOption
from planner.commands.output import check_output, write_result


def models(format: FormatOption = "table", output: OutputOption = None) -> None:
    """List the models that need no download, with their exact sizes."""
    check_output(output)
    from planner.models.source import list_presets
    from planner.reports.listing import MODELS

    write_result(rendered(MODELS, list_presets(), format, output), output)
