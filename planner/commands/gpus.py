"""planner gpus: the cards that have a name here."""

from planner.commands.common import rendered
from planner.commands.options import FormatOption, OutputOption
from planner.commands.output import check_output, write_result

EPILOG = """[bold]Examples[/bold]

planner gpus
planner gpus --format json"""


def gpus(format: FormatOption = "table", output: OutputOption = None) -> None:
    """List the GPUs that --gpu knows by name, with the memory that CUDA sees of each."""
    check_output(output)
    from planner.hardware import list_gpus
    from planner.reports.listing import GPUS

    write_result(rendered(GPUS, list_gpus(), format, output), output)
