"""planner formats: one model in every format."""

from typing import Annotated

import typer

from planner.commands.common import rendered
from planner.commands.options import FormatOption, ModelArgument, OutputOption, takes_options
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress
from planner.commands.serve_options import SERVED, ServeFlags

EPILOG = """[bold]Examples[/bold]

planner formats llama-3-8b --gpu rtx4090
planner formats llama-3.3-70b --gpu 48GiB --context 8192
planner formats deepseek-r1 --gpu h200 --gpus 8 --family gguf

[bold]Families, and names for --weights[/bold]

plain: bf16, fp16, fp32; int8 and int4 are flat rules of thumb
bitsandbytes: llm.int8, nf4, nf4-dq (qlora), fp4, fp4-dq
compressed-tensors: W4A16, W8A8, FP8_DYNAMIC, NVFP4, ..., a shipped recipe's name or the path of a recipe
gptq: GPTQ and AWQ checkpoints
gguf: file types (Q4_K_M, IQ2_XS, ...; gguf:NAME, NAME:imatrix, NAME:static), ggml:TYPE for every matrix in one type
exllama: exl2:BPW, exl3:BPW, with head bits exl2:BPW:h8"""


@takes_options(
    ServeFlags,
    "context",
    "batch",
    "kv_dtype",
    "beyond_positions",
    "gpu",
    "gpu_memory",
    "gpus",
    "machine",
    "here",
    "catalogue",
    "split",
    "bandwidth",
    "prefill_chunk",
    "attention",
    "gpu_memory_utilization",
    "reserve",
    "overhead",
)
def formats(
    model: ModelArgument,
    *,
    family: Annotated[
        list[str] | None,
        typer.Option(
            "--family",
            metavar="NAME",
            show_default=False,
            help="Formats of this family alone: plain, bitsandbytes, compressed-tensors, gptq, gguf or exllama. May be "
            "repeated.",
            rich_help_panel=SERVED,
        ),
    ] = None,
    options: ServeFlags,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """List every format with the size it gives the model; with --gpu also what fits, and how far.

    Sizes are the model's own tensors in that format. The context is the longest for this batch, the
    speed the ceiling that memory bandwidth sets to decoding.
    """
    check_output(output)
    checked_options = options.options()
    with Progress() as progress:
        from planner.reports.formats import FORMATS
        from planner.serving.fit import formats as make_table

        text = rendered(FORMATS, make_table(model, checked_options, tuple(family or ()), progress.say), format, output)
    write_result(text, output)
