"""planner strategies: every way to run a job on a machine, side by side."""

from planner.commands.common import rendered
from planner.commands.options import (
    BESIDE_MACHINE,
    CheckOption,
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
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Examples[/bold]

planner strategies qwen3-0.6b -r gptq_w4a16 --gpu 6GiB --ram 16GiB"""


@takes_machine_options()
@takes_job_options(*BESIDE_MACHINE)
def strategies(
    model: ModelArgument,
    recipe: RecipeOption,
    options: JobOptions,
    on: MachineFlags,
    set: SetOption = None,
    check: CheckOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Plan every way to run the job: what it asks of card, RAM and disk, what it moves, and whether it fits.

    Those that fit come first, among them the ones that move the fewest bytes. The best one is shown as Python to
    paste.
    """
    from planner.commands.jobs import make_job

    job, machine = make_job(options), make_machine(on)
    check_output(output)
    with Progress() as progress:
        from planner.choose.estimator import Estimator
        from planner.choose.fit import Search
        from planner.recipe.changes import parse_changes
        from planner.reports.choose import STRATEGIES

        answer = Search(Estimator(model, recipe, progress.say, parse_changes(set or ())), job, machine).strategies()
        text = rendered(STRATEGIES, answer, format, output)
    write_result(text, output)
    exit_for_no(check, answer.best.fits)
