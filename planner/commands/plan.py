"""planner plan: one job, step by step."""

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
    RecipeOption,
    SetOption,
    StepsOption,
    make_machine,
    takes_job_options,
    takes_machine_options,
)
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Examples[/bold]

planner plan llama-3-8b --recipe gptq_w4a16
planner plan deepseek-r1 --recipe gptq_w4a16 --gpu h200
planner plan path/to/config.json -r my_recipe.yaml --format json -o plan.json
planner plan qwen2.5-vl-7b -r gptq_w4a16 --images 1 --image-size 644x644"""


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
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Plan one job: CPU and GPU memory of every step, what each peak is made of, and what sets it.

    The defaults of the options are those of `llmcompressor.oneshot`. Nothing is downloaded but a
    Hub model's config, nothing is computed, and no GPU is needed.
    """
    from planner.commands.jobs import make_job

    machine = make_machine(on)
    job = make_job(options).on(machine)
    check_output(output)
    with Progress() as progress:
        from planner.compress.recipes import load_recipe
        from planner.planning import plan as make_plan
        from planner.recipe.changes import parse_changes
        from planner.reports.plan import formats

        result = make_plan(
            model,
            load_recipe(recipe, parse_changes(set or ())),
            job,
            method=method,
            progress=progress.say,
            machine=machine,
        )
        text = rendered(formats(steps), result, format, output)
    write_result(text, output)
    exit_for_no(check, result.fits)
