"""planner graph: what of a model is onloaded together."""

from typing import TYPE_CHECKING

from planner.commands.common import look
from planner.commands.options import (
    Format,
    FormatOption,
    JobOptions,
    ModelArgument,
    OutputOption,
    takes_job_options,
)
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

EPILOG = """[bold]Examples[/bold]

planner graph qwen2.5-vl-7b
planner graph deepseek-r1 --format json --output deepseek-r1.json"""


@takes_job_options(
    "seq_len",
    "batch_size",
    "images",
    "image_size",
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
    job = options.job()
    check_output(output)
    with Progress() as progress:
        progress.say(f"building {model} without weights")
        from planner.models.load import load_model

        text = _rendered(load_model(model, job), format, output)
    write_result(text, output)


def _rendered(result: "ModelGraph", format: Format, output: str | None) -> str:
    from planner.reports import graph as report

    if format == "json":
        return report.render_json(result)
    if format == "markdown":
        return report.render_markdown(result)
    return report.render(result, **look(output))
