"""planner explain: what is alive at the peak of a step."""

from typing import Annotated, Literal

import typer

from planner.commands.common import rendered
from planner.commands.options import (
    BESIDE_MACHINE,
    RESULT,
    FormatOption,
    JobOptions,
    MachineFlags,
    ModelArgument,
    OutputOption,
    RecipeOption,
    SetOption,
    make_machine,
    takes_job_options,
    takes_machine_options,
)
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Examples[/bold]

planner explain qwen3-0.6b -r gptq_w4a16
planner explain qwen3-0.6b -r gptq_w4a16 --step 6 --device cpu --format json"""

StepOption = Annotated[
    int | None,
    typer.Option(
        "--step",
        metavar="N",
        min=0,
        show_default=False,
        help="Number of the step, as `planner plan --steps all` shows it. Default: the one that sets the peak.",
        rich_help_panel=RESULT,
    ),
]
DeviceOption = Annotated[
    Literal["gpu", "cpu", "gpu1"],
    typer.Option("--device", help="Whose memory; gpu1 is the plan's second GPU.", rich_help_panel=RESULT),
]


@takes_machine_options()
@takes_job_options(*BESIDE_MACHINE)
def explain(
    model: ModelArgument,
    recipe: RecipeOption,
    options: JobOptions,
    on: MachineFlags,
    set: SetOption = None,
    step: StepOption = None,
    device: DeviceOption = "gpu",
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Show what is alive at the peak of a step, the largest first: whose, of which shape, and who allocates it."""
    from planner.commands.jobs import make_job

    machine = make_machine(on)
    job = make_job(options)
    check_output(output)
    with Progress() as progress:
        from planner.compress.recipes import load_recipe
        from planner.pictures.explain import FORMATS, explained
        from planner.pictures.make import pictured_on
        from planner.recipe.changes import parse_changes

        chosen = load_recipe(recipe, parse_changes(set or ()))
        ((plan, picture, *_),) = pictured_on(model, [chosen], job, [machine], progress=progress.say)
        assert picture is not None, "a simulated plan has a picture"
        text = rendered(FORMATS, explained(plan, picture, step, device), format, output)
    write_result(text, output)
