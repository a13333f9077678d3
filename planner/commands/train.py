"""planner train: what training a model takes."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from planner.commands import completion
from planner.commands.common import rendered
from planner.commands.options import (
    CatalogueOption,
    FormatOption,
    HereOption,
    MachineFlags,
    MachineNameOption,
    ModelArgument,
    OutputOption,
    cards_of,
    gpu_memory_option,
    takes_options,
)
from planner.commands.output import check_output, write_result
from planner.commands.progress import Progress

if TYPE_CHECKING:
    from planner.training.schema import TrainOptions

EPILOG = """[bold]Examples[/bold]

planner train llama-3-8b --gpus 8 --sharding zero3 --gpu h100
planner train llama-3-8b --method lora --targets q_proj,v_proj --gpu 24GiB
planner train llama-2-70b --method qlora --seq-len 512 --gpu 48GiB
planner train qwen3-8b --gpus 2 --sharding zero3 --offload optimizer"""

TRAINED, STEP, HARDWARE, ADAPTERS = "What is trained", "One step", "GPUs and sharding", "Adapters (lora, qlora)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFlags:
    """The options as typed: one field per option, in the order of `--help`."""

    method: Annotated[
        Literal["full", "lora", "qlora"],
        typer.Option(
            "--method",
            help="full trains every weight; lora trains adapters on 16-bit weights, qlora on 4-bit ones (NF4).",
            rich_help_panel=TRAINED,
        ),
    ] = "full"
    optimizer: Annotated[
        Literal["adamw", "adamw8bit", "adafactor", "lion", "sgd", "sgd-momentum"],
        typer.Option(
            "--optimizer",
            metavar="NAME",
            help="adamw (8 bytes a weight in fp32), adamw8bit (2), adafactor (rows and columns), lion (4), sgd (0), "
            "sgd-momentum (4).",
            rich_help_panel=TRAINED,
        ),
    ] = "adamw"
    precision: Annotated[
        Literal["bf16-mixed", "fp16-mixed", "bf16", "fp32"],
        typer.Option(
            "--precision",
            metavar="NAME",
            help="bf16-mixed, fp16-mixed: 16-bit compute, fp32 weights or fp32 master weights. bf16: everything in 16 "
            "bit, as transformers trains a model that is loaded in bf16. fp32.",
            rich_help_panel=TRAINED,
        ),
    ] = "bf16-mixed"
    seq_len: Annotated[
        int,
        typer.Option("--seq-len", metavar="TOKENS", help="Tokens of a sample, padding included.", rich_help_panel=STEP),
    ] = 2048
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", metavar="N", help="Samples per GPU in one forward.", rich_help_panel=STEP),
    ] = 1
    grad_accumulation: Annotated[
        int,
        typer.Option(
            "--grad-accumulation",
            metavar="N",
            help="Forwards before a step. From 2 on the gradients stay between them.",
            rich_help_panel=STEP,
        ),
    ] = 1
    attention: Annotated[
        Literal["flash", "eager"],
        typer.Option("--attention", help="eager keeps the scores of every head.", rich_help_panel=STEP),
    ] = "flash"
    checkpointing: Annotated[
        Literal["none", "selective", "full"] | None,
        typer.Option(
            "--checkpointing",
            show_default=False,
            help="full keeps each layer's input and computes the rest again in the backward; selective does so for "
            "attention alone. Default: full for qlora, none otherwise.",
            rich_help_panel=STEP,
        ),
    ] = None
    rank: Annotated[
        int, typer.Option("--rank", metavar="N", help="Rank of each adapter.", rich_help_panel=ADAPTERS)
    ] = 16
    targets: Annotated[
        str,
        typer.Option(
            "--targets",
            metavar="A,B",
            help="Linears that get one, by the last part of their name, or all-linear.",
            rich_help_panel=ADAPTERS,
        ),
    ] = "all-linear"
    dropout: Annotated[
        float,
        typer.Option("--dropout", metavar="P", help="Of the adapters' inputs; keeps masks.", rich_help_panel=ADAPTERS),
    ] = 0.0
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            metavar="N",
            show_default=False,
            help="GPUs in all. Default: 1, or those of the machine.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    gpus_per_node: Annotated[
        int, typer.Option("--gpus-per-node", metavar="N", help="Of one machine.", rich_help_panel=HARDWARE)
    ] = 8
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME|SIZE",
            show_default=False,
            autocompletion=completion.gpus,
            help="Name of the GPU, or its memory, like 24GiB (2^30 bytes) or 24GB (10^9 bytes): says what fits.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    gpu_memory: Annotated[str | None, gpu_memory_option(HARDWARE)] = None
    machine: MachineNameOption = None
    here: HereOption = False
    catalogue: CatalogueOption = None
    sharding: Annotated[
        Literal["none", "zero1", "zero2", "zero3", "fsdp", "fsdp-grad-op"],
        typer.Option(
            "--sharding",
            metavar="NAME",
            help="none (every GPU has all), zero1 shards optimizer states, zero2 gradients too, zero3 and fsdp weights "
            "too; fsdp-grad-op is FSDP's SHARD_GRAD_OP.",
            rich_help_panel=HARDWARE,
        ),
    ] = "none"
    offload: Annotated[
        Literal["none", "optimizer", "optimizer+params"],
        typer.Option("--offload", metavar="WHAT", help="none, optimizer, optimizer+params.", rich_help_panel=HARDWARE),
    ] = "none"
    offload_to: Annotated[
        Literal["cpu", "nvme"], typer.Option("--offload-to", help="Where to.", rich_help_panel=HARDWARE)
    ] = "cpu"

    def options(self) -> "TrainOptions":
        """The checked options. Raises one JobError, which names the option, for a value without meaning."""
        from planner.commands.jobs import checked
        from planner.training.schema import TrainOptions

        typed = asdict(self)
        said = {name: typed.pop(name) for name in ("gpu", "gpu_memory", "gpus", "machine", "here", "catalogue")}
        typed["gpu"], typed["gpus"] = cards_of(MachineFlags(**said))
        return checked(TrainOptions, typed)


@takes_options(TrainFlags)
def train(
    model: ModelArgument,
    options: TrainFlags,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Size a training job: GPU memory with its parts, and what every way to shard and offload would take.

    Optimizer states are counted tensor by tensor, activations by running the model forward and
    back without data. Nothing is downloaded but a Hub model's config, and no GPU is needed.

    GPU memory alone decides what fits. Of RAM, states that are offloaded are shown, not all that the job takes, so
    there is no --ram or --disk here.
    """
    check_output(output)
    checked_options = options.options()
    with Progress() as progress:
        from planner.reports.train import FORMATS
        from planner.training.train import train as plan_training

        progress.say(f"building {model} without weights")
        text = rendered(FORMATS, plan_training(model, checked_options), format, output)
    write_result(text, output)
