"""The options of a job on the command line: LLM Compressor's words, its defaults, and their help.

No pydantic and no torch here, so that `planner --help` stays fast. `planner.job.Job` checks the
values; a test holds both lists of defaults together.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, get_type_hints

import typer

from planner.reports.forms import OutputFormat, StepsShown

DATA, PIPELINE, MODEL, MACHINE, RESULT = (
    "Calibration data",
    "How LLM Compressor runs",
    "How the model is loaded",
    "The machine",
    "The result",
)

FLAG = " "  # a flag takes no value; typer would call it <bool>

Method = Literal["simulate", "rule-of-thumb"]
Pipeline = Literal["independent", "sequential", "basic", "datafree"]
OffloadDevice = Literal["cpu", "gpu"]
DType = Literal["bfloat16", "float16", "float32"]

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A preset (see `planner models`), a config.json or a folder holding one, or a Hugging Face Hub id. "
        "Only the config is read, never the weights.",
    ),
]
FormatOption = Annotated[
    OutputFormat,
    typer.Option("--format", help="table to read, json for programs, markdown to paste.", rich_help_panel=RESULT),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the result here instead of to stdout.", rich_help_panel=RESULT
    ),
]
StepsOption = Annotated[
    StepsShown,
    typer.Option("--steps", help="folded: one line per distinct step. all: every step.", rich_help_panel=RESULT),
]
MethodOption = Annotated[
    Method,
    typer.Option(
        "--method",
        help="simulate walks the job step by step; rule-of-thumb is LLM Compressor's documented rule.",
        rich_help_panel=RESULT,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The job as typed: one field per option, in the order of `--help`."""

    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help="Number of calibration samples.", rich_help_panel=DATA)
    ] = 512
    seq_len: Annotated[
        int,
        typer.Option("--seq-len", metavar="TOKENS", help="Tokens per sample, padding included.", rich_help_panel=DATA),
    ] = 2048
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Samples per forward pass.", rich_help_panel=DATA)
    ] = 1
    images: Annotated[
        int,
        typer.Option(
            "--images",
            metavar="N",
            help="Images per sample, for vision models; 0 is text-only calibration. Their tokens count in --seq-len.",
            rich_help_panel=DATA,
        ),
    ] = 0
    image_size: Annotated[
        str,
        typer.Option("--image-size", metavar="HxW", help="Height and width of an image, pixels.", rich_help_panel=DATA),
    ] = "448x448"
    pipeline: Annotated[
        Pipeline,
        typer.Option(
            "--pipeline",
            metavar="NAME",
            help="independent (every modifier gets the one it needs), sequential, basic or datafree.",
            rich_help_panel=PIPELINE,
        ),
    ] = "independent"
    sequential_targets: Annotated[
        str | None,
        typer.Option(
            "--sequential-targets",
            metavar="A,B",
            help="Class names to cut the model at, e.g. LlamaAttention,LlamaMLP. Default: the decoder layers, "
            "as LLM Compressor infers them.",
            rich_help_panel=PIPELINE,
        ),
    ] = None
    targets_per_subgraph: Annotated[
        int,
        typer.Option(
            "--targets-per-subgraph",
            metavar="N",
            help="Targets (layers) that are on the GPU together.",
            rich_help_panel=PIPELINE,
        ),
    ] = 1
    offload_device: Annotated[
        OffloadDevice,
        typer.Option("--offload-device", help="Where activations wait between subgraphs.", rich_help_panel=PIPELINE),
    ] = "cpu"
    no_propagate_error: Annotated[
        bool,
        typer.Option(
            "--no-propagate-error",
            metavar=FLAG,
            help="Run each subgraph once, and give the next one its uncompressed outputs.",
            rich_help_panel=PIPELINE,
        ),
    ] = False
    prefetch: Annotated[
        bool,
        typer.Option(
            "--prefetch",
            metavar=FLAG,
            help="Fetch the next batch to the GPU during the current one.",
            rich_help_panel=PIPELINE,
        ),
    ] = False
    no_calibrate_all_experts: Annotated[
        bool,
        typer.Option(
            "--no-calibrate-all-experts",
            metavar=FLAG,
            help="Mixture of experts: an expert sees only the tokens routed to it.",
            rich_help_panel=PIPELINE,
        ),
    ] = False
    linearized: Annotated[
        bool,
        typer.Option(
            "--linearized",
            metavar=FLAG,
            help="Mixture of experts: loaded by load_quantizable_moe, with one Linear per projection. Otherwise "
            "oneshot converts the fused experts, which costs CPU memory.",
            rich_help_panel=MODEL,
        ),
    ] = False
    dtype: Annotated[
        DType,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="Type the weights are loaded in: bfloat16, float16 or float32.",
            rich_help_panel=MODEL,
        ),
    ] = "bfloat16"
    layers: Annotated[
        int | None,
        typer.Option(
            "--layers", metavar="N", help="Keep the first N layers of the text decoder.", rich_help_panel=MODEL
        ),
    ] = None
    vision_layers: Annotated[
        int | None,
        typer.Option(
            "--vision-layers", metavar="N", help="Keep the first N layers of the vision tower.", rich_help_panel=MODEL
        ),
    ] = None
    gpu_memory: Annotated[
        str,
        typer.Option(
            "--gpu-memory",
            metavar="SIZE",
            help="Memory of the GPU, like 24GiB (2^30 bytes) or 24GB (10^9 bytes). GPTQ sizes its batches by it.",
            rich_help_panel=MACHINE,
        ),
    ] = "80GiB"


def takes_job_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options of JobOptions, or all; it gets them as its one argument `options`."""
    return takes_options(JobOptions, *names)


def takes_options(kind: type[Any], *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as options, these or all; it gets a record as its one `options`.

    typer reads a function's signature. Writing twenty parameters once per sub-command would let the
    sub-commands drift apart, so the signature is made here, from the one list.
    """
    chosen = names or tuple(item.name for item in fields(kind))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_options(**values: Any) -> None:  # what typer parsed, by parameter name
            command(options=kind(**{name: values.pop(name) for name in chosen}), **values)

        parameters = _parameters(command, kind, chosen)
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        with_options.__doc__, with_options.__name__ = command.__doc__, command.__name__
        return with_options

    return decorate


def _parameters(command: Callable[..., None], kind: type[Any], chosen: tuple[str, ...]) -> list[inspect.Parameter]:
    """The command's own parameters by keyword, with the fields in the place of `options`."""
    found: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "options":
            found.extend(_field_parameter(kind, name) for name in chosen)
        else:
            found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    return found


def _field_parameter(kind: type[Any], name: str) -> inspect.Parameter:
    annotation = get_type_hints(kind, include_extras=True)[name]
    item = next(item for item in fields(kind) if item.name == name)
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
