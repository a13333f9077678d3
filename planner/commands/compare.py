"""planner compare: recipes, strategies and machines side by side for one model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from planner.commands import completion
from planner.commands.common import rendered
from planner.commands.options import (
    BESIDE_MACHINE,
    CheckOption,
    FormatOption,
    JobOptions,
    MachineFlags,
    MethodOption,
    ModelArgument,
    OutputOption,
    SetOption,
    make_machine,
    takes_job_options,
    takes_machine_options,
)
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress
from planner.errors import JobError
from planner.fields import MACHINE

if TYPE_CHECKING:
    from planner.hardware.machine import Machine

EPILOG = """[bold]Examples[/bold]

planner compare llama-3-8b -r rtn_w8a8_static -r gptq_w4a16 -r sparsegpt_2of4
planner compare mixtral-8x7b -r rtn_fp8_dynamic -r gptq_w4a16 -r wanda_2of4
planner compare qwen3-0.6b -r gptq_w4a16 --strategy 'batch of 4' --gpu t4 --beside l4"""

RecipesOption = Annotated[
    list[str],
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        show_default=False,
        autocompletion=completion.recipes,
        help="A shipped recipe, a recipe file, or - for stdin; give the option once for each.",
    ),
]
StrategyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy",
        metavar="NAME",
        show_default=False,
        help="A strategy as `planner strategies` names it, or all. May be repeated. Default: the job as asked.",
    ),
]
BesideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--beside",
        metavar="NAME|SIZE",
        show_default=False,
        autocompletion=completion.gpus,
        help="Another machine (`planner machines`) or card to plan on as well, with the other options above. May be "
        "repeated.",
        rich_help_panel=MACHINE,
    ),
]


@takes_machine_options()
@takes_job_options(*BESIDE_MACHINE)
def compare(
    model: ModelArgument,
    recipe: RecipesOption,
    options: JobOptions,
    on: MachineFlags,
    set: SetOption = None,
    strategy: StrategyOption = None,
    beside: BesideOption = None,
    method: MethodOption = "simulate",
    check: CheckOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Plan the same job with several recipes, strategies and machines, and show them side by side, a line for each."""
    from planner.commands.jobs import make_job

    machines = machines_of(on, beside or ())
    asked = make_job(options)
    check_output(output)
    check_recipes(recipe)
    if method != "simulate" and (strategy or beside):
        raise JobError(f"--method {method} knows neither strategies nor machines; leave --strategy and --beside out")
    with Progress() as progress:
        from planner.compress.recipes import load_recipe
        from planner.planning import compare as make_plans
        from planner.recipe.changes import parse_changes
        from planner.reports.compare import FORMATS

        recipes = [load_recipe(each, parse_changes(set or ())) for each in recipe]
        if strategy or beside:
            from planner.choose.compare import Comparison

            results = Comparison(model, progress.say).plans(recipes, asked, machines, strategy or ())
        else:
            (machine,) = machines
            job = asked.on(machine)
            results = make_plans(model, recipes, job, method=method, progress=progress.say, machine=machine)
        text = rendered(FORMATS, results, format, output)
    write_result(text, output)
    exit_for_no(check, *(result.fits for result in results))


def check_recipes(recipes: Sequence[str]) -> None:
    """Raise JobError where stdin is named more than once."""
    if recipes.count("-") > 1:
        raise JobError("--recipe -: stdin holds one recipe; give it once")


def machines_of(on: MachineFlags, beside: Sequence[str]) -> "tuple[Machine, ...]":
    """The machine of the options, if they say one, and those beside it, of which the sizes that are typed hold too."""
    from planner.hardware import named_gpu

    is_said = bool(on.gpu or on.gpu_memory or on.machine or on.here)
    first = [make_machine(on)] if is_said or not beside else []
    base = replace(on, gpu=None, gpu_memory=None, machine=None, here=False)
    others = (
        replace(base, gpu=text) if text.strip()[:1].isdigit() or named_gpu(text) else replace(base, machine=text)
        for text in beside
    )
    return (*first, *map(make_machine, others))
