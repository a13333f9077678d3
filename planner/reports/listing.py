"""The presets, the shipped recipes and the GPUs, as lists to choose from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.console import Group
from rich.text import Text

from planner.reports.drawing import draw, listed
from planner.reports.forms import Formats, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.units import GB, GIB

if TYPE_CHECKING:
    from planner.hardware import Gpu
    from planner.models.source import Preset
    from planner.recipe.files import RecipeInfo

R = TypeVar("R")
UNKNOWN = "?"
"""What stands for a figure that nobody said."""
_PRESET_FIELDS = (
    *("name", "title", "hub_id", "aliases", "parameters"),
    *("checkpoint_parameters", "not_loaded_parameters"),
)
_GPU_FIELDS = (
    *("name", "aliases", "memory_bytes", "driver_bytes", "label_gb", "unified", "sm", "bandwidth", "source"),
    *("bf16_tflops", "bf16_source"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing(Generic[R]):
    """How one kind of thing is listed."""

    name: str
    """Key of the list in JSON."""
    fields: tuple[str, ...]
    """Attributes of each item that JSON holds."""
    titles: tuple[str, ...]
    right: tuple[bool, ...]
    """Which columns hold numbers."""
    cells: Callable[[R], list[str]]
    footer: str
    first_to_go: tuple[str, ...] = ()
    """Columns that a narrow terminal does without."""

    def formats(self) -> Formats[Sequence[R]]:
        return {"table": self._table, "json": everywhere(self._json), "markdown": everywhere(self._markdown)}

    def _json(self, items: Sequence[R]) -> str:
        records = [{field: getattr(item, field) for field in self.fields} for item in items]
        return json.dumps({"schema_version": 1, self.name: records}, indent=1, ensure_ascii=False) + "\n"

    def _markdown(self, items: Sequence[R]) -> str:
        body = [[escape(cell) for cell in self.cells(item)] for item in items]
        return markdown_table(self.titles, self.right, body) + "\n"

    def _table(self, items: Sequence[R], /, *, width: int | None = None, color: bool = False) -> str:
        table = listed(self.titles, self.right, list(map(self.cells, items)), width, self.first_to_go)
        return draw(Group(table, Text(), Text(self.footer, style="dim")), width=width, color=color)


def _preset_cells(preset: "Preset") -> list[str]:
    missing = f"{preset.not_loaded_parameters:,}" if preset.not_loaded_parameters else "-"
    return [preset.name, f"{preset.parameters:,}", missing, preset.hub_id]


def _recipe_cells(info: "RecipeInfo") -> list[str]:
    return [info.name, info.summary]


def _gpu_cells(gpu: "Gpu") -> list[str]:
    return [
        gpu.name,
        f"{gpu.memory_bytes / GIB:,.2f}",
        "shared" if gpu.unified else or_unknown(gpu.label_gb, "{}"),
        or_unknown(gpu.sm, "{}"),
        or_unknown(gpu.bandwidth and gpu.bandwidth / GB, "{:,.0f}"),
        or_unknown(gpu.bf16_tflops, "{:,.0f}"),
    ]


def or_unknown(value: object, form: str) -> str:
    """The value in this form, or what stands for an unknown one."""
    return UNKNOWN if value is None else form.format(value)


MODELS: "Formats[Sequence[Preset]]" = _Listing(
    name="models",
    fields=_PRESET_FIELDS,
    titles=("preset", "parameters", "not loaded", "Hugging Face Hub id"),
    right=(False, True, True, False),
    cells=_preset_cells,
    first_to_go=("not loaded", "parameters"),
    footer="Parameters: as transformers loads them, tied ones once. Not loaded: what the checkpoint holds besides.\n"
    "Any other Hub id, config.json or folder with one works as well.",
).formats()

RECIPES: "Formats[Sequence[RecipeInfo]]" = _Listing(
    name="recipes",
    fields=("name", "summary"),
    titles=("recipe", "what it is for"),
    right=(False, False),
    cells=_recipe_cells,
    footer="Any recipe file that LLM Compressor accepts works as well: --recipe path/to/recipe.yaml",
).formats()

GPUS: "Formats[Sequence[Gpu]]" = _Listing(
    name="gpus",
    fields=_GPU_FIELDS,
    titles=("GPU", "CUDA GiB", "label GB", "sm", "bandwidth GB/s", "bf16 TFLOP/s"),
    right=(False, True, True, True, True, True),
    cells=_gpu_cells,
    first_to_go=("label GB", "bf16 TFLOP/s"),
    footer="CUDA GiB: what programs have of the card, 2^30 bytes each; label GB: the number on the box. Rates without\n"
    "sparsity. ?: nobody said. --format json has names, bytes and sources.",
).formats()
