"""planner plan: one job, step by step."""

from typing import Annotated

import typer

from planner.commands.common import rendered
from planner.commands.options import (
    BESIDE_MACHINE,
    RESULT,
    CheckOption,
    JobOptions,
    MachineFlags,
    MethodOption,
    ModelArgument,
    OutputOption,
    RecipeOption,
    SetOption,
    StepsOption,
    make_machine,
    takes_job_options,
    takes_machine_options,
)
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress
from planner.errors import JobError
from planner.reports.forms import DRAWN, TOLD, PlanFormat

EPILOG = """[bold]Examples[/bold]

planner plan llama-3-8b --recipe gptq_w4a16
planner plan deepseek-r1 --recipe gptq_w4a16 --gpu h200
planner plan path/to/config.json -r my_recipe.yaml --format json -o plan.json
planner plan qwen2.5-vl-7b -r gptq_w4a16 --images 1 --image-size 644x644
planner plan qwen3-0.6b -r gptq_w4a16 --format png -o slide.png"""

PlanFormatOption = Annotated[
    PlanFormat,
    typer.Option(
        "--format",
        help="table to read, json for programs, markdown to paste; svg or png for a slide, perfetto for "
        "ui.perfetto.dev, memory-viz for pytorch.org/memory_viz.",
        rich_help_panel=RESULT,
    ),
]
DarkOption = Annotated[
    bool, typer.Option("--dark", help="svg and png: light on a dark ground.", rich_help_panel=RESULT)
]
StepOption = Annotated[
    int | None,
    typer.Option(
        "--step",
        min=0,
        metavar="N",
        show_default=False,
        help="memory-viz: this step alone, instead of the one that sets the peak and its neighbours.",
        rich_help_panel=RESULT,
    ),
]


@takes_machine_options()
@takes_job_options(*BESIDE_MACHINE)
def plan(
    model: ModelArgument,
    recipe: RecipeOption,
    options: JobOptions,
    on: MachineFlags,
    set: SetOption = None,
    method: MethodOption = "simulate",
    steps: StepsOption = "folded",
    check: CheckOption = False,
    format: PlanFormatOption = "table",
    dark: DarkOption = False,
    step: StepOption = None,
    output: OutputOption = None,
) -> None:
    """Plan one job: CPU and GPU memory of every step, what each peak is made of, and what sets it.

    The defaults of the options are those of `llmcompressor.oneshot`. Nothing is downloaded but a
    Hub model's config, nothing is computed, and no GPU is needed.
    """
    from planner.commands.jobs import make_job

    _check_looks(format, dark, step)
    machine = make_machine(on)
    job = make_job(options).on(machine)
    check_output(output)
    with Progress() as progress:
        from planner.compress.recipes import load_recipe
        from planner.planning import plan as make_plan
        from planner.recipe.changes import parse_changes
        from planner.reports.plan import formats

        changes = parse_changes(set or ())
        content: str | bytes
        if format in TOLD:
            result = make_plan(
                model, load_recipe(recipe, changes), job, method=method, progress=progress.say, machine=machine
            )
            content = rendered(formats(steps), result, TOLD[format], output)
        else:
            from planner.pictures.exports import check_form, exported

            form = DRAWN[format]
            check_form(form, output, method)
            result, content = exported(
                model, load_recipe(recipe, changes), job, form, machine, dark=dark, step=step, progress=progress.say
            )
    write_result(content, output)
    exit_for_no(check, result.fits)


def _check_looks(format: PlanFormat, dark: bool, step: int | None) -> None:
    """Raise JobError for an option that this form would not heed."""
    if dark and format not in ("svg", "png"):
        raise JobError(f"--dark is for --format svg and png, not {format}")
    if step is not None and format != "memory-viz":
        raise JobError(f"--step is for --format memory-viz; {format} shows the whole job, planner explain one step")
