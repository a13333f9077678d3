"""planner measure: the same job on this machine's accelerator."""

from typing import TYPE_CHECKING, Annotated

import typer

from planner.commands import completion
from planner.commands.options import FLAG, JobOptions, OutputOption, takes_job_options
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress
from planner.errors import JobError, RecipeError, StoppedError, UnsupportedError
from planner.fields import JOB_FIELDS, MACHINE

if TYPE_CHECKING:
    from planner.compress.schema import Plan
    from planner.job import Job
    from planner.measure.record import Measurement

MEASURING = "Measuring"

EPILOG = """[bold]Examples[/bold]

planner measure llama-3-8b --recipe gptq_w4a16 --layers 3 --samples 4 -o run.json
planner measure --log llmcompressor.log -o run.json
planner accuracy run.json"""


MeasuredModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        autocompletion=completion.models,
        help="A preset, a config.json or a folder holding one, or a Hugging Face Hub id. Weights are random.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        show_default=False,
        autocompletion=completion.recipes,
        help="A shipped recipe, a recipe file that LLM Compressor accepts, or - for one on stdin.",
    ),
]
LogOption = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="FILE",
        show_default=False,
        help="Run nothing: read the log of a finished LLM Compressor run, as far as it goes.",
        rich_help_panel=MEASURING,
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar=FLAG,
        help="Start although the plan says that memory will not do, or there is no plan: "
        "a modifier that LLM Compressor has and the planner does not.",
        rich_help_panel=MEASURING,
    ),
]
CollectOption = Annotated[
    bool,
    typer.Option(
        "--collect",
        metavar=FLAG,
        help="Run Python's garbage collector after the first batches of each pass, so that peaks repeat.",
        rich_help_panel=MEASURING,
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        metavar=FLAG,
        help="Show LLM Compressor's log and progress bars.",
        rich_help_panel=MEASURING,
    ),
]


@takes_job_options(
    *(field.name for field in JOB_FIELDS if field.panel != MACHINE and field.measurable)
)  # the card says the rest
def measure(
    options: JobOptions,
    model: MeasuredModelArgument = None,
    recipe: RecipeOption = None,
    log: LogOption = None,
    force: ForceOption = False,
    collect: CollectOption = False,
    verbose: VerboseOption = False,
    output: OutputOption = None,
) -> None:
    """Run the job for real on this machine's accelerator, with random weights, and record every step.

    Needs the extra `measure` and a GPU. --layers 2 or 3 tells as much as the whole depth:
    widths stay true. The record, JSON, goes to --output after every step, or to stdout at the end.
    """
    if log is not None:
        _check_alone(model, recipe)
        check_output(output)
        _write_log(log, output)
        return
    if model is None or recipe is None:
        raise JobError("name a MODEL and a --recipe to measure, or a finished run's --log (see planner measure --help)")
    from planner.commands.jobs import make_job

    job = make_job(options)
    check_output(output)
    plan, result = _measured(model, recipe, job, force=force, collect=collect, verbose=verbose, output=output)
    _report(plan, result, output)


def _check_alone(model: str | None, recipe: str | None) -> None:
    if model is not None or recipe is not None:
        raise JobError("--log reads a finished run; leave MODEL and --recipe out")


def _write_log(log: str, output: str | None) -> None:
    from planner.measure.files import render
    from planner.measure.logs import read_log

    write_result(render(read_log(log)), output)


def _measured(
    model: str, recipe: str, job: "Job", *, force: bool, collect: bool, verbose: bool, output: str | None
) -> "tuple[Plan | None, Measurement]":
    """Check the machine, plan the job, check that the plan fits the machine, and run the job."""
    from planner.measure.checks import find_card, on_this_machine, require_library, require_memory
    from planner.measure.files import recipe_argument, recipe_text, render
    from planner.models.source import load_source
    from planner.recipe.files import ON_STDIN, STDIN

    require_library()
    source, argument, text = load_source(model), recipe_argument(recipe), recipe_text(recipe)
    with Progress() as progress:
        card = find_card()
        job = on_this_machine(job, card)
        plan = _planned(model, recipe, job, force, progress)
        if plan is not None and not force:
            require_memory(plan, card)
        from planner.measure.record import MeasuredRecipe
        from planner.measure.run import Request, measure

        request = Request(
            source=source,
            recipe=MeasuredRecipe(name=ON_STDIN if recipe == STDIN else recipe, text=text),
            recipe_argument=argument,
            job=job,
            card=card,
            collect=collect,
            verbose=verbose,
        )

        def keep(record: "Measurement") -> None:
            if output is not None:
                write_result(render(record), output)

        return plan, measure(request, keep, progress.say)


def _planned(model: str, recipe: str, job: "Job", force: bool, progress: Progress) -> "Plan | None":
    """The plan of the job; None where it cannot be planned and --force is given."""
    from planner.planning import plan as make_plan

    try:
        return make_plan(model, recipe, job, progress=progress.say)
    except (RecipeError, UnsupportedError) as error:
        if not force:
            raise type(error)(f"{error}; --force measures without a plan") from None
        return None


def _report(plan: "Plan | None", result: "Measurement", output: str | None) -> None:
    """Write the record; if it goes to a file, print the plan beside it. Raises StoppedError for a stopped job."""
    from planner.measure.files import render

    write_result(render(result), output)
    if output is not None and plan is not None and result.steps:
        from planner.commands.common import look
        from planner.measure.accuracy import Accuracy, compare
        from planner.reports.accuracy import render as table

        write_result(table(Accuracy(jobs=(compare(plan, result, output),)), **look(None)), None)
    if not result.complete:
        earlier = f"the {len(result.steps)} steps before that are in {output or 'the record'}"
        raise StoppedError(f"{result.stopped}; {earlier}", interrupted=(result.stopped or "").startswith("interrupted"))
