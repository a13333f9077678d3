"""planner model-free: one `model_free_ptq` call, file by file."""

from typing import Annotated

import typer

from planner.commands import completion
from planner.commands.common import rendered
from planner.commands.model_free_options import ModelFreeFlags
from planner.commands.options import (
    CheckOption,
    FormatOption,
    MachineFlags,
    OutputOption,
    make_machine,
    takes_machine_options,
    takes_options,
)
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Example[/bold]

planner model-free qwen3-8b -s FP8_BLOCK --ignore lm_head --gpu l40s"""

CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion.models,
        show_default=False,
        help="A folder of safetensors, or a Hub id in the local cache: their headers and index are read. Or a preset "
        "(see `planner models`), a config.json, or any other Hub id: then the files are assumed.",
    ),
]


@takes_machine_options()
@takes_options(ModelFreeFlags)
def model_free(
    model: CheckpointArgument,
    options: ModelFreeFlags,
    on: MachineFlags,
    check: CheckOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Plan LLM Compressor's model_free_ptq: a checkpoint that is quantized file by file, without its model.

    What each worker holds on the GPU and in RAM at a time, what the library itself estimates, and
    the result's size to the byte. No weight is read, and nothing is downloaded but a Hub model's
    config.
    """
    check_output(output)
    machine = make_machine(on)
    with Progress() as progress:
        from planner.modelfree.plan import model_free as plan_model_free
        from planner.reports.model_free import FORMATS

        progress.say(f"reading {model}")
        result = plan_model_free(model, machine=machine, **options.arguments())
        text = rendered(FORMATS, result, format, output)
    write_result(text, output)
    exit_for_no(check, result.fits)
