"""planner machines: what can be rented, by the table that is shipped and by catalogues that the user has."""

from typing import Annotated, Literal

import typer

from planner.commands.common import rendered
from planner.commands.options import RESULT, CatalogueOption, OutputOption
from planner.commands.output import check_output, write_result

EPILOG = """[bold]Examples[/bold]

planner machines --gpu l40s
planner machines --gpu l40s --catalogue my-machines.csv"""

MachinesFormat = Literal["table", "json", "markdown", "csv"]

GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", metavar="NAME", show_default=False, help="Only machines with this card (`planner gpus`)."),
]
CloudOption = Annotated[
    str | None, typer.Option("--cloud", metavar="NAME", show_default=False, help="Only machines of this cloud.")
]
MachinesFormatOption = Annotated[
    MachinesFormat,
    typer.Option(
        "--format",
        help="table to read, json for programs, markdown to paste, csv to edit and give back by --catalogue.",
        rich_help_panel=RESULT,
    ),
]


def machines(
    gpu: GpuOption = None,
    cloud: CloudOption = None,
    catalogue: CatalogueOption = None,
    format: MachinesFormatOption = "table",
    output: OutputOption = None,
) -> None:
    """List machines that can be rented: GPUs, RAM, local disk and price, each with its source and date."""
    check_output(output)
    from planner.hardware.catalogues import Catalogue, read_catalogues
    from planner.hardware.machines import chosen_machines, list_machines, together
    from planner.reports.machines import MACHINES, as_csv

    read = read_catalogues(catalogue or ())
    chosen = chosen_machines(together([*list_machines(), *read.machines]), gpu=gpu, cloud=cloud)
    if format == "csv":
        write_result(as_csv(chosen), output)
    else:
        write_result(rendered(MACHINES, Catalogue(machines=chosen, notes=read.notes), format, output), output)
