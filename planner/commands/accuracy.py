"""planner accuracy: compares plans with measurements."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.commands import completion
from planner.commands.common import rendered
from planner.commands.options import FLAG, RESULT, FormatOption, JobOptions, OutputOption, takes_job_options
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress
from planner.errors import MeasureError

if TYPE_CHECKING:
    from planner.compress.schema import Plan
    from planner.job import Job
    from planner.measure.record import Measurement

EPILOG = """[bold]Examples[/bold]

planner accuracy run.json
planner accuracy run.json --every-step --format markdown"""


RunsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        show_default=False,
        help="What `planner measure` wrote (also from a log), or the meter's JSON.",
    ),
]
OtherModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        autocompletion=completion.models,
        show_default=False,
        help="Plan this model; needed where the run does not say which it was (a log).",
    ),
]
OtherRecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        autocompletion=completion.recipes,
        show_default=False,
        help="Plan this recipe; needed where the run does not say which it was.",
    ),
]
EveryStepOption = Annotated[
    bool,
    typer.Option("--every-step", metavar=FLAG, help="Also a line for every step.", rich_help_panel=RESULT),
]


@takes_job_options()
def accuracy(
    options: JobOptions,
    runs: RunsArgument,
    model: OtherModelOption = None,
    recipe: OtherRecipeOption = None,
    every_step: EveryStepOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Plan the jobs that were measured and lay plan beside measurement: at the peak, and step by step.

    Ratios are planned / measured. Where they differ, the part or tensor that would explain it is named.
    The job's options matter only for a run that does not say what its job was: one read from a log.
    """
    from planner.commands.jobs import make_job

    job = make_job(options)
    check_output(output)
    with Progress() as progress:
        from planner.measure.accuracy import Accuracy, compare
        from planner.measure.files import read_measurement
        from planner.reports.accuracy import formats

        measured = [(run, read_measurement(run)) for run in runs]
        jobs = []
        for run, measurement in measured:
            progress.say(f"planning {run}")
            jobs.append(compare(_plan(run, measurement, model, recipe, job), measurement, Path(run).name))
        text = rendered(formats(every_step), Accuracy(jobs=tuple(jobs)), format, output)
    write_result(text, output)


def _plan(run: str, measurement: "Measurement", model: str | None, recipe: str | None, job: "Job") -> "Plan":
    """The plan of the measured job, from the record and the options: a record needs no other file."""
    from planner.measure.again import measured_model, measured_recipe
    from planner.planning import plan as make_plan

    of_model = model or measured_model(measurement)
    of_recipe = recipe or measured_recipe(measurement)
    if of_model is None or of_recipe is None:
        option = "--model" if of_model is None else "--recipe"
        raise MeasureError(f"{run}: does not say what was run; name it with {option}")
    # the meter's device counts, and knows nothing of CUDA's own requests
    return make_plan(of_model, of_recipe, measurement.job or job, on_card=measurement.source != "meter")
