"""planner serve: what serving a model takes."""

import re
from fractions import Fraction
from typing import Annotated

import typer

from planner.commands import completion
from planner.commands.common import rendered
from planner.commands.options import CheckOption, FormatOption, OutputOption, takes_options
from planner.commands.output import check_output, exit_for_no, write_result
from planner.commands.progress import Progress
from planner.commands.serve_options import SERVED, ServeFlags, WeightsOption
from planner.errors import JobError

EPILOG = """[bold]Examples[/bold]

planner serve llama-3-8b --weights w4a16 --context 8192 --gpu rtx4090
planner serve llama-2-70b -w exl2:2.55 --context 2048 --gpu 24GiB
planner serve deepseek-r1 -w FP8 --gpu h200 --gpus 8 --split expert --batch 32
planner serve qwen3-30b-a3b -w Q4_K_M --gpu rtx3060 -ngl 24
planner serve --params 1T --weights IQ2_XS --overhead 20%"""

_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_PARAMS = re.compile(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([kmbt]?)\s*", re.IGNORECASE)
_MOST_PARAMS = 10**18


ModelOrNothing = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion.models,
        show_default=False,
        help="A preset (see `planner models`), a config.json or a folder holding one, or a Hugging Face Hub id. "
        "Only the config is read, never the weights.",
    ),
]
ParamsOption = Annotated[
    str | None,
    typer.Option(
        "--params",
        metavar="N",
        show_default=False,
        help="Instead of a MODEL, its number of parameters: 1T, 8B, 70e9. Gives weights and overhead alone.",
        rich_help_panel=SERVED,
    ),
]


@takes_options(ServeFlags)
def serve(
    model: ModelOrNothing = None,
    *,
    params: ParamsOption = None,
    weights: WeightsOption = "bf16",
    options: ServeFlags,
    check: CheckOption = False,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Size a model that is served: GPU memory with its parts, what fits, the longest context, users, speed.

    Weights are counted tensor by tensor in the format, the KV cache by each layer's own
    attention, activations by running the forward without data. Nothing is downloaded but a Hub
    model's config, and no GPU is needed.

    GPU memory alone decides what fits. What a server takes of RAM and disk is not planned, so there is no --ram or
    --disk here.
    """
    check_output(output)
    checked_options = options.options()
    if (model is None) == (params is None):
        raise JobError(
            "give a MODEL, or --params without one" if model is None else "give a MODEL or --params, not both"
        )
    with Progress() as progress:
        from planner.reports.serve import FORMATS
        from planner.serving.serve import serve as serve_model
        from planner.serving.serve import serve_parameters

        if params is not None:
            result = serve_parameters(parse_params(params), weights, checked_options)
        else:
            assert model is not None
            progress.say(f"building {model} without weights")
            result = serve_model(model, weights, checked_options)
        text = rendered(FORMATS, result, format, output)
    write_result(text, output)
    exit_for_no(check, "no" if result.fits is False else None)


def parse_params(text: str) -> int:
    """Read `1T`, `8B`, `70e9` or `8030261248`. Raises JobError for anything else."""
    match = _PARAMS.fullmatch(text)
    count = Fraction(match[1]) * _SUFFIX[match[2].lower()] if match else Fraction(0)
    if not 1 <= count <= _MOST_PARAMS or count.denominator != 1:
        raise JobError(f"--params {text!r}: write a number of parameters, like 8B, 1T, 70e9 or 8030261248")
    return int(count)
