"""planner compare: several recipes for one model."""

from typing import Annotated

import typer

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
    make_machine,
    takes_job_options,
    takes_machine_options,
)
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Examples[/bold]

planner compare llama-3-8b -r rtn_w8a8_static -r gptq_w4a16 -r sparsegpt_2of4
planner compare deepseek-r1 -r rtn_fp8_dynamic -r gptq_w4a16 -r sparsegpt_2of4"""


@takes_machine_options()
@takes_job_options(*BESIDE_MACHINE)
def compare(
    model: ModelArgument,
    recipe: Annotated[
        list[str],
        typer.Option(
            "--recipe",
            "-r",
            metavar="RECIPE",
            show_default=False,
            help="A shipped recipe or a recipe file; give the option once for each.",
        ),
    ],
    options: JobOptions,
    on: MachineFlags,
    method: MethodOption = "simulate",
    check: CheckOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Plan the same job with several recipes, and show them side by side, a line for each."""
    from planner.commands.jobs import make_job

    machine = make_machine(on)
    job = make_job(options).on(machine)
    check_output(output)
    with Progress() as progress:
        from planner.planning import compare as make_plans
        from planner.reports.compare import FORMATS

        results = make_plans(model, recipe, job, method=method, progress=progress.say, machine=machine)
        text = rendered(FORMATS, results, format, output)
    write_result(text, output)
    exit_for_no(check, *(result.fits for result in results))
