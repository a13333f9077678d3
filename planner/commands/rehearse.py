"""planner rehearse: the user's own script, on a card that is not there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.commands import completion
from planner.commands.common import rendered
from planner.commands.options import (
    BESIDE_MACHINE,
    FLAG,
    CheckOption,
    FormatOption,
    JobOptions,
    MachineFlags,
    OutputOption,
    StepsOption,
    make_machine,
    takes_job_options,
    takes_machine_options,
)
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress
from planner.commands.words import SCRIPTS, hint
from planner.errors import JobError
from planner.fields import JOB_FIELDS
from planner.hints import did_you_mean, shorten

if TYPE_CHECKING:
    from planner.compress.schema import Plan
    from planner.rehearse.run import ScriptWish

REHEARSING = "Rehearsing"

FOR_SCRIPTS = ("samples", "ranks", "progress_bars", "sm", "alloc_conf", "cuda_context_bytes")
"""Fields of the job that a script does not say for itself."""

EPILOG = """[bold]Examples[/bold]

planner rehearse my_oneshot.py --gpu 24GiB
planner rehearse my_oneshot.py --gpu rtx4090 --ram 64GiB -- --its-own-option 3
planner rehearse llama-3-8b -r gptq_w4a16 --samples 16 --gpu 24GiB"""

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="SCRIPT|MODEL",
        show_default=False,
        autocompletion=completion.models,
        help="A Python script, with its arguments behind it (those that planner has too, behind a --); or, with "
        "--recipe, a model as `planner plan` takes it.",
    ),
]
ArgumentsArgument = Annotated[list[str] | None, typer.Argument(metavar="[ARGUMENTS]", show_default=False)]
RecipeOfJobOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        show_default=False,
        autocompletion=completion.recipes,
        help="No script: rehearse the job that `planner plan MODEL -r RECIPE` plans.",
    ),
]
PythonOption = Annotated[
    str | None,
    typer.Option(
        "--python",
        metavar="PATH",
        show_default=False,
        help="The Python that would run the script: its torch is run, a CUDA build. Default: planner's own.",
        rich_help_panel=REHEARSING,
    ),
]
SaveOption = Annotated[
    bool,
    typer.Option(
        "--save",
        metavar=FLAG,
        help="Let save_pretrained write its files, as large as the real ones. Else it writes nothing.",
        rich_help_panel=REHEARSING,
    ),
]
RealDataOption = Annotated[
    bool,
    typer.Option(
        "--real-data",
        metavar=FLAG,
        help="Load the data sets that the script names, from the cache or the Hub. Else they are made up.",
        rich_help_panel=REHEARSING,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        metavar=FLAG,
        help="Let models run the code that lies beside their config, where the script asks for that.",
        rich_help_panel=REHEARSING,
    ),
]
EveryBatchOption = Annotated[
    bool,
    typer.Option(
        "--every-batch",
        metavar=FLAG,
        help="Run those batches, too, that would do what batches before them did. Else they are passed over: the "
        "report is the same.",
        rich_help_panel=REHEARSING,
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", metavar=FLAG, help="Hide what the script prints.", rich_help_panel=REHEARSING),
]


@takes_machine_options()
@takes_job_options(*BESIDE_MACHINE)
def rehearse(
    target: TargetArgument,
    options: JobOptions,
    on: MachineFlags,
    context: typer.Context,
    arguments: ArgumentsArgument = None,
    recipe: RecipeOfJobOption = None,
    python: PythonOption = None,
    save: SaveOption = False,
    real_data: RealDataOption = False,
    trust_remote_code: TrustOption = False,
    every_batch: EveryBatchOption = False,
    quiet: QuietOption = False,
    steps: StepsOption = "folded",
    check: CheckOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Run a script, unmodified, on PyTorch's own CUDA build and a card that is not there, and report its memory.

    No GPU, no weights, no downloads: real operators, the real caching allocator and the real out-of-memory error
    over a pretended driver. Needs Linux on x86-64, g++, and the environment in which the script would run.
    """
    from planner.commands.jobs import make_job
    from planner.rehearse.run import ScriptWish

    typed = _checked(context, options, arguments or (), recipe)
    machine = make_machine(on)
    job = make_job(typed).on(machine)
    check_output(output)
    wish = ScriptWish(
        script=Path(target),
        arguments=tuple(arguments or ()),
        job=job,
        python=python,
        cards=max(machine.gpus, 2 if job.has_second_gpu else 1),
        ram_bytes=machine.ram_bytes,
        save=save,
        real_data=real_data,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
        every_batch=every_batch,
    )
    from planner.sizing.demands import judged

    _tell(judged(_rehearsed(wish, target, recipe), machine), steps, check, format, output)


def _tell(plan: "Plan", steps: StepsOption, check: bool, format: FormatOption, output: str | None) -> None:
    """Write the report. Raises typer.Exit where the exit code says no."""
    from planner.reports.plan import formats

    write_result(rendered(formats(steps), plan, format, output), output)
    if plan.verdict is not None and plan.verdict.outcome == "out of memory":
        raise typer.Exit(1)
    exit_for_no(check, plan.fits)


def _checked(context: typer.Context, options: JobOptions, arguments: Sequence[str], recipe: str | None) -> JobOptions:
    """The job's options that were typed. Raises JobError for words that nobody would heed."""
    typed = {name: value for name, value in options.items() if _is_typed(context, name)}
    if recipe is None:
        _refuse_unused(typed)
    else:
        _refuse_arguments(arguments, [name for each in context.command.params for name in each.opts])
    return typed


def _is_typed(context: typer.Context, name: str) -> bool:
    """The option is on the command line, though it may be the default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_unused(typed: JobOptions) -> None:
    """Raise JobError for an option of the job that says nothing about a script."""
    unused = [field.option for field in JOB_FIELDS if field.name in typed and field.name not in FOR_SCRIPTS]
    if unused:
        raise JobError(
            f"{', '.join(unused)}: a script says that itself; it is for a model with --recipe, and an option of the "
            "script's own stands behind a --"
        )


def _refuse_arguments(arguments: Sequence[str], options: Sequence[str]) -> None:
    """Raise JobError for what is neither an option nor, beside a recipe, anybody's argument."""
    if not arguments:
        return
    unknown = next((each for each in arguments if each.startswith("-")), None)
    meant = _meant(unknown, options)
    raise JobError(f"{shorten(' '.join(arguments))}: with --recipe there is no script that would take this{meant}")


def _meant(unknown: str | None, options: Sequence[str]) -> str:
    """`; write --samples` for an option that another tool has, or the option that looks most like it."""
    if unknown is None:
        return ""
    if known := hint(SCRIPTS, unknown):
        return f"; {known}"
    return did_you_mean(unknown.partition("=")[0], [each for each in options if each.startswith("-")])


def _rehearsed(wish: "ScriptWish", target: str, recipe: str | None) -> "Plan":
    from planner.rehearse.run import rehearse as run

    with Progress() as progress:
        if recipe is None:
            return run(wish, progress.say)
        from planner.rehearse.job import rehearse_job

        return rehearse_job(wish, target, recipe, progress.say)
