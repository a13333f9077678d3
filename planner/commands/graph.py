"""planner graph: the parts of a model that are onloaded together."""

from planner.commands.common import rendered
from planner.commands.options import (
    FormatOption,
    JobOptions,
    ModelArgument,
    OutputOption,
    takes_job_options,
)
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress

EPILOG = """[bold]Examples[/bold]

planner graph qwen2.5-vl-7b
planner graph deepseek-r1 --format json --output deepseek-r1.json"""


@takes_job_options(
    "seq_len",
    "batch_size",
    "images",
    "image_size",
    "audios",
    "audio_seconds",
    "sequential_targets",
    "linearized",
    "dtype",
    "layers",
    "vision_layers",
)
def graph(
    model: ModelArgument, options: JobOptions, format: FormatOption = "table", output: OutputOption = None
) -> None:
    """Show the parts of a model that are brought to the GPU together, with their exact sizes.

    Routed experts appear as LLM Compressor compresses them: one Linear per projection.
    """
    from planner.commands.jobs import make_job

    job = make_job(options)
    check_output(output)
    with Progress() as progress:
        progress.say(f"building {model} without weights")
        from planner.models.load import load_model
        from planner.reports.graph import FORMATS

        text = rendered(FORMATS, load_model(model, job), format, output)
    write_result(text, output)
