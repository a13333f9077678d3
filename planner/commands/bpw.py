"""planner bpw: the most bits per weight that fit."""

from typing import Annotated

import typer

from planner.commands.common import rendered
from planner.commands.options import FormatOption, ModelArgument, OutputOption, takes_options
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress
from planner.commands.serve_options import SERVED, ServeFlags

EPILOG = """[bold]Examples[/bold]

planner bpw llama-2-70b --gpu 24GiB --context 2048
planner bpw llama-3.3-70b --gpu 48GiB --context 8192 --choices 2.5,3,4,6
planner bpw qwen3-8b --gpu 8GiB --choices W4A16,W8A16,bf16
planner bpw qwen3-8b --gpu 8GiB --choices gguf"""


@takes_options(
    ServeFlags,
    "context",
    "batch",
    "kv_dtype",
    "gpu",
    "gpu_memory",
    "machine",
    "here",
    "catalogue",
    "bandwidth",
    "prefill_chunk",
    "attention",
    "gpu_memory_utilization",
    "reserve",
    "overhead",
)
def bpw(
    model: ModelArgument,
    *,
    choices: Annotated[
        str | None,
        typer.Option(
            "--choices",
            metavar="A,B,C",
            show_default=False,
            help="What a matrix may be kept as: bits (2.5,3,4,6) or names of formats (W4A16,W8A16,bf16), or exl2, "
            "exl3, compressed or gguf for the usual ones. Default: exl2 where ExLlamaV2 knows the model, else exl3, "
            "else compressed.",
            rich_help_panel=SERVED,
        ),
    ] = None,
    options: ServeFlags,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Find the most bits per weight that fit a GPU beside KV cache, activations and overhead.

    Then the formats just under it, and a mixture that uses the memory up: which layers keep more
    bits, in an order taken from llama.cpp's mixtures. An order, not a measurement.
    """
    check_output(output)
    checked_options = options.options()
    with Progress() as progress:
        from planner.reports.bpw import FORMATS
        from planner.serving.fit import bits

        text = rendered(FORMATS, bits(model, checked_options, choices, progress.say), format, output)
    write_result(text, output)
