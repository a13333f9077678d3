"""planner report: a page with the charts of one plan or several."""

from typing import Annotated

import typer

from planner.commands.compare import BesideOption, RecipesOption, StrategyOption, check_recipes, machines_of
from planner.commands.options import (
    BESIDE_MACHINE,
    RESULT,
    CheckOption,
    JobOptions,
    MachineFlags,
    ModelArgument,
    SetOption,
    takes_job_options,
    takes_machine_options,
)
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Examples[/bold]

planner report llama-3-8b -r gptq_w4a16 -o report.html
planner report qwen3-0.6b -r rtn_w4a16 -r gptq_w4a16 --gpu l4 -o report.html"""

STDOUT = "-"

FileOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default=False,
        help="The HTML file to write; - for stdout.",
        rich_help_panel=RESULT,
    ),
]


@takes_machine_options()
@takes_job_options(*BESIDE_MACHINE)
def report(
    model: ModelArgument,
    recipe: RecipesOption,
    output: FileOption,
    options: JobOptions,
    on: MachineFlags,
    set: SetOption = None,
    strategy: StrategyOption = None,
    beside: BesideOption = None,
    check: CheckOption = False,
) -> None:
    """Draw a plan as a page: memory over the steps, and what lies where at each moment; several plans side by side.

    One HTML file that needs no network: charts with zoom into a step, what is alive at a moment, the verdict, the
    arguments to paste, and the plan as JSON.
    """
    from planner.commands.jobs import make_job

    check_recipes(recipe)
    machines = machines_of(on, beside or ())
    asked = make_job(options)
    file = None if output == STDOUT else output
    check_output(file)
    with Progress() as progress:
        from planner.compress.recipes import load_recipe
        from planner.pictures.make import pictured_on
        from planner.pictures.page import page, titled
        from planner.recipe.changes import parse_changes

        changes = parse_changes(set or ())
        recipes = [load_recipe(each, changes) for each in recipe]
        results = pictured_on(model, recipes, asked, machines, strategy or (), changes=changes, progress=progress.say)
        text = page(results, titled(results))
    write_result(text, file)
    exit_for_no(check, *(result.plan.fits for result in results))
