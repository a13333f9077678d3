"""The options of serving on the command line, shared by every command that sizes a served model.

No pydantic here: `planner --help` stays fast. `ServeOptions` checks the values; a test holds both lists together.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from planner.commands import completion
from planner.commands.options import (
    FLAG,
    CatalogueOption,
    HereOption,
    MachineFlags,
    MachineNameOption,
    cards_of,
    gpu_memory_option,
)
from planner.errors import JobError
from planner.fields import Engine, SplitMode
from planner.units import parse_bytes

if TYPE_CHECKING:
    from planner.serving.schema import ServeOptions

SERVED, HARDWARE, ENGINE = "What is served", "The hardware", "The engine"

Attention = Literal["flash", "eager"]

WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        metavar="FORMAT",
        help="Format of the weights: bf16, nf4, W4A16, a recipe file, Q4_K_M, exl2:4.0, ... (`planner formats`).",
        rich_help_panel=SERVED,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeFlags:
    """The options as typed: one field per option, in the order of `--help`."""

    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            metavar="TOKENS",
            show_default=False,
            help="Tokens of each sequence, prompt and answer together. Default: 4096, or the model's most.",
            rich_help_panel=SERVED,
        ),
    ] = None
    batch: Annotated[
        int,
        typer.Option(
            "--batch", metavar="N", help="Sequences that are served at the same time.", rich_help_panel=SERVED
        ),
    ] = 1
    kv_dtype: Annotated[
        str,
        typer.Option(
            "--kv-dtype",
            metavar="TYPE",
            help="Type of keys and values: bfloat16, float16, fp8, int8, q8_0, q4_0, ... auto: as a recipe's "
            "kv_cache_scheme makes them, else 16 bit.",
            rich_help_panel=SERVED,
        ),
    ] = "auto"
    beyond_positions: Annotated[
        bool,
        typer.Option(
            "--beyond-positions",
            metavar=FLAG,
            help="Look for contexts longer than the config allows (rope scaling).",
            rich_help_panel=SERVED,
        ),
    ] = False
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME|SIZE",
            show_default=False,
            autocompletion=completion.gpus,
            help="A GPU's name (rtx4090, h100, mi300x, ...) or its memory, like 24GiB. Without it nothing fits or "
            "does not.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    gpu_memory: Annotated[str | None, gpu_memory_option(HARDWARE)] = None
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            metavar="N",
            show_default=False,
            help="Number of such GPUs. Default: 1, or those of the machine.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    machine: MachineNameOption = None
    here: HereOption = False
    catalogue: CatalogueOption = None
    split: Annotated[
        SplitMode | None,
        typer.Option(
            "--split",
            metavar="HOW",
            show_default=False,
            help="tensor: heads and widths over the GPUs. expert: whole experts, the rest as tensor. layer: whole "
            "layers. Default: tensor for vLLM, layer for the others.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    gpu_layers: Annotated[
        int | None,
        typer.Option(
            "--gpu-layers",
            "-ngl",
            metavar="N",
            show_default=False,
            help="llama.cpp: layers on the GPU, from the end; the output counts as one. The rest, with its cache, is "
            "on the CPU. Default: all.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    bandwidth: Annotated[
        str | None,
        typer.Option(
            "--bandwidth",
            metavar="RATE",
            show_default=False,
            help="Memory bandwidth of one GPU, like 1008GB/s, where --gpu does not know it.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    cpu_bandwidth: Annotated[
        str | None,
        typer.Option(
            "--cpu-bandwidth",
            metavar="RATE",
            show_default=False,
            help="Memory bandwidth of the CPU, for layers that stay there. Default: 89.6GB/s, DDR5-5600 on two "
            "channels.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    engine: Annotated[
        Engine | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            show_default=False,
            help="vllm, llama.cpp or exllama. Default: the one that the format is made for.",
            rich_help_panel=ENGINE,
        ),
    ] = None
    prefill_chunk: Annotated[
        int | None,
        typer.Option(
            "--prefill-chunk",
            metavar="TOKENS",
            show_default=False,
            help="Tokens of one prefill step; 0 takes whole prompts. Default: the engine's (vLLM 2048, or 8192 on "
            "cards from 70 GiB but the A100; llama.cpp 512; ExLlama 2048).",
            rich_help_panel=ENGINE,
        ),
    ] = None
    attention: Annotated[
        Attention,
        typer.Option(
            "--attention",
            metavar="KIND",
            help="flash (scores never in memory) or eager (all of them).",
            rich_help_panel=ENGINE,
        ),
    ] = "flash"
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory-utilization",
            metavar="SHARE",
            show_default=False,
            help="vLLM's option of this name. Default: 0.92.",
            rich_help_panel=ENGINE,
        ),
    ] = None
    reserve: Annotated[
        list[str],
        typer.Option(
            "--reserve",
            metavar="PART=SIZE",
            show_default=False,
            help="Another size for a part of the overhead: cuda-context, cuda-graphs or not-vllm. May be repeated.",
            rich_help_panel=ENGINE,
        ),
    ] = field(default_factory=list)
    overhead: Annotated[
        str | None,
        typer.Option(
            "--overhead",
            metavar="SHARE|SIZE",
            show_default=False,
            help="One flat part instead of all: 20% of the weights, or 2GiB.",
            rich_help_panel=ENGINE,
        ),
    ] = None

    def options(self) -> "ServeOptions":
        """The checked options. Raises one JobError, which names the option, for a value without meaning."""
        from planner.commands.jobs import checked
        from planner.serving.schema import ServeOptions

        gpu, gpus = cards_of(
            MachineFlags(
                gpu=self.gpu,
                gpu_memory=self.gpu_memory,
                gpus=self.gpus,
                machine=self.machine,
                here=self.here,
                catalogue=self.catalogue,
            )
        )
        values = {
            "context": self.context,
            "batch": self.batch,
            "kv_dtype": self.kv_dtype,
            "beyond_positions": self.beyond_positions,
            "gpu": gpu,
            "gpus": gpus,
            "split": self.split,
            "gpu_layers": self.gpu_layers,
            "bandwidth": _rate("--bandwidth", self.bandwidth),
            "cpu_bandwidth": _rate("--cpu-bandwidth", self.cpu_bandwidth),
            "engine": self.engine,
            "prefill_chunk": self.prefill_chunk,
            "attention": self.attention,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "reserve": dict(_part(text) for text in self.reserve),
            "overhead": self.overhead,
        }
        return checked(ServeOptions, values)


def _rate(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_bytes(re.sub(r"\s*(/\s*s|ps)\s*$", "", text, flags=re.IGNORECASE))
    except JobError:
        raise JobError(f"{option} {text!r}: write bytes per second, like 1008GB/s") from None


def _part(text: str) -> tuple[str, int]:
    name, equals, size = text.partition("=")
    if not equals:
        raise JobError(f"--reserve {text!r}: write a part and its size, like cuda-graphs=1GiB")
    return name.strip(), 0 if size.strip() == "0" else parse_bytes(size)
