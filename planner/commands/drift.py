"""planner drift: which plans another release of LLM Compressor moves."""

from typing import Annotated

import typer

from planner.commands.common import rendered
from planner.commands.options import FLAG, RESULT, FormatOption, OutputOption
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Examples[/bold]

planner drift --environment llmcompressor-0.13.0
planner drift gptq awq --environment llmcompressor-0.13.0/bin/python --llmcompressor 0.13.0 --check
planner drift qwen3-8b:my_recipe.yaml --environment llmcompressor-0.13.0"""

JobsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[JOB]...",
        show_default=False,
        help="Names of jobs (docs/drift.md lists them), or MODEL:RECIPE for one of your own. Default: all that have a "
        "name.",
    ),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option(
        "--environment",
        metavar="FOLDER|PYTHON",
        show_default=False,
        help="The virtual environment that has the release and a CUDA build of torch. Default: planner's own.",
    ),
]
ReleaseOption = Annotated[
    str | None,
    typer.Option(
        "--llmcompressor",
        metavar="VERSION",
        show_default=False,
        help="The release that is meant: an environment with another one is refused, with what makes one that has it.",
    ),
]
CheckDriftOption = Annotated[
    bool,
    typer.Option("--check", metavar=FLAG, help="Exit with code 1 where a plan is off, for CI.", rich_help_panel=RESULT),
]


def drift(
    jobs: JobsArgument = None,
    environment: EnvironmentOption = None,
    llmcompressor: ReleaseOption = None,
    check: CheckDriftOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Rehearse small jobs under another release of LLM Compressor, and name the steps where plans no longer hold.

    Each job is planned and rehearsed (planner rehearse), and compared step by step: requested and CPU bytes within
    1 %, reserved within 2 %. Where they differ, what holds the memory there is named by the release's own lines,
    with the functions that the plan follows.
    """
    from planner.drift.cases import chosen
    from planner.drift.run import drift as run

    cases = chosen(jobs or ())
    check_output(output)
    with Progress() as progress:
        result = run(cases, environment, llmcompressor, progress.say)
    from planner.reports.drift import FORMATS

    write_result(rendered(FORMATS, result, format, output), output)
    if check and result.is_off:
        raise typer.Exit(1)
