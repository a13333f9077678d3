"""planner fit: does this machine do the job, and if not, what makes it fit."""

from collections.abc import Sequence
from typing import Annotated

import typer

from planner.commands.common import rendered
from planner.commands.options import (
    BESIDE_MACHINE,
    RESULT,
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
from planner.errors import JobError

EPILOG = """[bold]Examples[/bold]

planner fit llama-3-8b -r gptq_w4a16 --gpu rtx4090 --ram 24GiB
planner fit qwen3-0.6b -r gptq_w4a16 --gpu t4 --ram 8GiB --max samples
planner fit qwen3-0.6b -r gptq_w4a16 --machine g6.4xlarge --check"""

_FIELDS = {"samples": "samples", "seq-len": "seq_len", "batch-size": "batch_size"}

MaxOption = Annotated[
    list[str] | None,
    typer.Option(
        "--max",
        metavar="FIELD",
        show_default=False,
        help="Also the largest samples, seq-len or batch-size that fits. May be repeated.",
        rich_help_panel=RESULT,
    ),
]


@takes_machine_options()
@takes_job_options(*BESIDE_MACHINE)
def fit(
    model: ModelArgument,
    recipe: RecipeOption,
    options: JobOptions,
    on: MachineFlags,
    set: SetOption = None,
    max: MaxOption = None,
    check: CheckOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Say whether this machine does the job, what binds, and for a no the smallest changes that make it fit.

    Each change is planned before it is advised. Changes that compress the model alike go first; fewer or shorter
    samples only where nothing else helps.
    """
    from planner.commands.jobs import make_job

    job, machine, fields = make_job(options), make_machine(on), _fields(max or ())
    check_output(output)
    with Progress() as progress:
        from planner.choose.estimator import Estimator
        from planner.choose.fit import Search
        from planner.recipe.changes import parse_changes
        from planner.reports.choose import FIT

        search = Search(Estimator(model, recipe, progress.say, parse_changes(set or ())), job, machine)
        largest = tuple(search.largest(field) for field in fields)
        answer = search.fit().model_copy(update={"largest": largest})
        text = rendered(FIT, answer, format, output)
    write_result(text, output)
    exit_for_no(check, answer.fits)


def _fields(names: Sequence[str]) -> tuple[str, ...]:
    """The fields of the job that these words of `--max` stand for. Raises JobError for any other word."""
    unknown = [name for name in names if name not in _FIELDS]
    if unknown:
        raise JobError(f"--max {unknown[0]}: write one of {', '.join(_FIELDS)}")
    return tuple(_FIELDS[name] for name in dict.fromkeys(names))
