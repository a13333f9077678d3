"""planner accuracy: the plan beside what was measured."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from planner.commands.common import look
from planner.commands.options import FLAG, RESULT, Format, FormatOption, JobOptions, OutputOption, takes_job_options
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress
from planner.errors import MeasureError

if TYPE_CHECKING:
    from planner.compress.schema import Plan
    from planner.job import Job
    from planner.measure.accuracy import Accuracy
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

        measured = [(run, read_measurement(run)) for run in runs]
        jobs = []
        for run, measurement in measured:
            progress.say(f"planning {run}")
            jobs.append(compare(_plan(run, measurement, model, recipe, job), measurement, Path(run).name))
        text = _rendered(Accuracy(jobs=tuple(jobs)), format, every_step, output)
    write_result(text, output)


def _plan(run: str, measurement: "Measurement", model: str | None, recipe: str | None, job: "Job") -> "Plan":
    """The plan of the measured job: from what the record holds, so that it needs no other file."""
    from planner.planning import plan as make_plan

    with TemporaryDirectory(prefix="planner_accuracy_") as folder:
        model = model or _model(measurement, Path(folder))
        name = recipe or (measurement.recipe.name if measurement.recipe else None)
        recipe = recipe or _recipe(measurement, Path(folder))
        for value, option in ((model, "--model"), (recipe, "--recipe")):
            if value is None:
                raise MeasureError(f"{run}: does not say what was run; name it with {option}")
        assert model and recipe and name
        plan = make_plan(model, recipe, measurement.job or job)
    return plan.model_copy(update={"recipe": name})


def _model(measurement: "Measurement", folder: Path) -> str | None:
    """The model by the config in the record, or else by its name."""
    import json

    if measurement.model is None:
        return None
    if measurement.model.config is None:
        return measurement.model.name
    path = folder / measurement.model.name.replace("/", "_") / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(measurement.model.config), encoding="utf-8")
    return str(path)


def _recipe(measurement: "Measurement", folder: Path) -> str | None:
    """The recipe by its text in the record, or else by its name."""
    if measurement.recipe is None:
        return None
    if measurement.recipe.text is None:
        return measurement.recipe.name
    path = folder / f"recipe{Path(measurement.recipe.name).suffix or '.yaml'}"
    path.write_text(measurement.recipe.text, encoding="utf-8")
    return str(path)


def _rendered(result: "Accuracy", format: Format, every_step: bool, output: str | None) -> str:
    from planner.reports import accuracy as report

    if format == "json":
        return report.render_json(result)
    if format == "markdown":
        return report.render_markdown(result, steps=every_step)
    return report.render(result, steps=every_step, **look(output))
