"""planner rent: the machines on which a job fits, the cheapest first."""

from typing import Annotated

import typer

from planner.commands.common import rendered
from planner.commands.machines import CloudOption, GpuOption
from planner.commands.options import (
    BESIDE_MACHINE,
    RESULT,
    CatalogueOption,
    CheckOption,
    FormatOption,
    JobOptions,
    ModelArgument,
    OutputOption,
    RecipeOption,
    SetOption,
    takes_job_options,
)
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Examples[/bold]

planner rent qwen3-0.6b -r gptq_w4a16 --max-price 1"""

MaxPriceOption = Annotated[
    float | None,
    typer.Option(
        "--max-price",
        metavar="PRICE",
        min=0,
        show_default=False,
        help="Only machines that cost at most this much for one hour, in the one currency that there is or --currency.",
        rich_help_panel=RESULT,
    ),
]
CurrencyOption = Annotated[
    str | None,
    typer.Option(
        "--currency",
        metavar="CODE",
        show_default=False,
        help="Only machines with a price in this currency, like USD. Amounts of two currencies are never compared.",
        rich_help_panel=RESULT,
    ),
]
HeadroomOption = Annotated[
    float,
    typer.Option(
        "--min-headroom",
        metavar="PART",
        min=0,
        max=0.99,
        help="Part of GPU memory and of RAM that must stay free, 0.1 for a tenth.",
        rich_help_panel=RESULT,
    ),
]


@takes_job_options(*BESIDE_MACHINE)
def rent(
    model: ModelArgument,
    recipe: RecipeOption,
    options: JobOptions,
    set: SetOption = None,
    gpu: GpuOption = None,
    cloud: CloudOption = None,
    catalogue: CatalogueOption = None,
    max_price: MaxPriceOption = None,
    currency: CurrencyOption = None,
    min_headroom: HeadroomOption = 0.0,
    check: CheckOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """List machines on which the job fits, the cheapest first, each with its best strategy; then near misses.

    Machines without a price come last, the smallest first. The table that is shipped has prices of the day that it
    names: a catalogue of your own brings newer ones.
    """
    from planner.commands.jobs import make_job

    job = make_job(options)
    check_output(output)
    from planner.hardware.catalogues import read_catalogues
    from planner.hardware.machines import chosen_machines, list_machines, together

    read = read_catalogues(catalogue or ())
    machines = chosen_machines(together([*list_machines(), *read.machines]), gpu=gpu, cloud=cloud)
    with Progress() as progress:
        from planner.choose.estimator import Estimator
        from planner.choose.rent import Wish
        from planner.choose.rent import rent as find
        from planner.recipe.changes import parse_changes
        from planner.reports.rent import RENT

        code = currency.strip().upper() if currency else None
        wish = Wish(max_price=max_price, currency=code, min_headroom=min_headroom)
        answer = find(Estimator(model, recipe, progress.say, parse_changes(set or ())), job, machines, wish)
        text = rendered(RENT, answer, format, output)
    write_result(text, output)
    exit_for_no(check, *(() if answer.offers else ("no",)))
