"""The options of `planner model-free`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from planner.errors import JobError, RecipeError
from planner.hints import shorten
from planner.units import parse_bytes

JOB, CHECKPOINT = "The job", "The checkpoint"
MAX_BYTES = 2**20
_SHARD = 5 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFreeFlags:
    """The options as typed: one field per option, in the order of `--help`."""

    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            "-s",
            metavar="NAME",
            show_default=False,
            help="A preset scheme: FP8_BLOCK, FP8_DYNAMIC, W4A16, NVFP4A16, MXFP4A16, W8A8, ...",
            rich_help_panel=JOB,
        ),
    ] = None
    config_groups: Annotated[
        str | None,
        typer.Option(
            "--config-groups",
            metavar="FILE|JSON",
            show_default=False,
            help="Instead of --scheme: groups by name, each with targets and weights, as JSON or a file of it.",
            rich_help_panel=JOB,
        ),
    ] = None
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="PATTERN",
            show_default=False,
            help="A module's whole name, or re: and a regular expression. May be repeated. Names that end in `norm` "
            "are left out anyway.",
            rich_help_panel=JOB,
        ),
    ] = None
    max_workers: Annotated[
        int,
        typer.Option("--max-workers", metavar="N", help="Files at a time, at most; on a GPU.", rich_help_panel=JOB),
    ] = 1
    device: Annotated[
        Literal["gpu", "cpu"] | None,
        typer.Option(
            "--device", show_default=False, help="Default: gpu, unless the machine has none.", rich_help_panel=JOB
        ),
    ] = None
    converter: Annotated[
        str | None,
        typer.Option(
            "--converter",
            metavar="NAME",
            show_default=False,
            help="Applied before: fp8-block (FP8BlockDequantizer), compressed-tensors (CompressedTensorsDequantizer), "
            "modelopt-nvfp4 (ModelOptNvfp4Converter).",
            rich_help_panel=JOB,
        ),
    ] = None
    converter_targets: Annotated[
        list[str] | None,
        typer.Option(
            "--converter-target",
            metavar="PATTERN",
            show_default=False,
            help="Modules that it converts. May be repeated. Default: all.",
            rich_help_panel=JOB,
        ),
    ] = None
    converter_ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--converter-ignore",
            metavar="PATTERN",
            show_default=False,
            help="Modules that it leaves alone. May be repeated.",
            rich_help_panel=JOB,
        ),
    ] = None
    shard_size: Annotated[
        str | None,
        typer.Option(
            "--shard-size",
            metavar="SIZE",
            show_default=False,
            help="Size of the files of a checkpoint that is not here. Default: 5GB, as Hub models have it.",
            rich_help_panel=CHECKPOINT,
        ),
    ] = None
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"],
        typer.Option(
            "--dtype", help="Type of the weights of a checkpoint that is not here.", rich_help_panel=CHECKPOINT
        ),
    ] = "bfloat16"

    def arguments(self) -> dict[str, Any]:
        """The arguments of `model_free`. Raises JobError, RecipeError for what cannot be read."""
        from planner.modelfree.plan import ModelFreeOptions

        if (self.scheme is None) == (self.config_groups is None):
            raise JobError("say what to make of the weights: either --scheme, like FP8_BLOCK, or --config-groups")
        return {
            "scheme": self.scheme,
            "config_groups": None if self.config_groups is None else _groups(self.config_groups),
            "ignore": tuple(self.ignore or ()),
            "converter": self.converter,
            "converter_targets": tuple(self.converter_targets or ()),
            "converter_ignore": tuple(self.converter_ignore or ()),
            "options": ModelFreeOptions(
                max_workers=self.max_workers,
                device=self.device,
                dtype=self.dtype,
                shard_bytes=_SHARD if self.shard_size is None else _size(self.shard_size),
            ),
        }


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except JobError as error:
        raise JobError(f"--shard-size: {error}") from None


def _read(path: str) -> str:
    """The text of a regular file of bounded size: reading a pipe or a device might never end."""
    if Path(path).exists() and not Path(path).is_file():
        raise RecipeError(f"--config-groups {shorten(path)}: is not a regular file")
    with Path(path).open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RecipeError(f"--config-groups {shorten(path)}: is larger than {MAX_BYTES} bytes")
    return data.decode("utf-8")


def _groups(text: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(text if text.lstrip().startswith("{") else _read(text))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise RecipeError(f"--config-groups {shorten(text)}: {reason}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"--config-groups {shorten(text)}: must be a JSON object with a group for each name")
    return found
