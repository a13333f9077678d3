"""The presets and the shipped recipes, as lists to choose from."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Group
from rich.text import Text

from planner.reports.markdown import escape, markdown_table
from planner.reports.table import draw, ruled_table

if TYPE_CHECKING:
    from planner.models.source import Preset
    from planner.recipe.files import RecipeInfo

Format = Literal["table", "json", "markdown"]


def render_models(
    presets: Sequence["Preset"], format: Format = "table", *, width: int | None = None, color: bool = False
) -> str:
    """The presets: name, exact size, Hub id."""
    if format == "json":
        fields = ("name", "title", "hub_id", "aliases", "parameters", "checkpoint_parameters", "not_loaded_parameters")
        return _json("models", [{name: getattr(preset, name) for name in fields} for preset in presets])
    titles = ["preset", "parameters", "not loaded", "Hugging Face Hub id"]
    cells = [
        [preset.name, f"{preset.parameters:,}", _count(preset.not_loaded_parameters), preset.hub_id]
        for preset in presets
    ]
    if format == "markdown":
        return _markdown(titles, cells, [False, True, True, False])
    footer = (
        "Parameters: as transformers loads them, tied ones once. Not loaded: what the checkpoint holds besides.\n"
        "Any other Hub id, config.json or folder with one works as well."
    )
    return _table(titles, cells, [False, True, True, False], footer, width, color)


def render_recipes(
    recipes: Sequence["RecipeInfo"], format: Format = "table", *, width: int | None = None, color: bool = False
) -> str:
    """The shipped recipes: name and what each is for."""
    if format == "json":
        return _json("recipes", [{"name": info.name, "summary": info.summary} for info in recipes])
    cells = [[info.name, info.summary] for info in recipes]
    if format == "markdown":
        return _markdown(["recipe", "what it is for"], cells, [False, False])
    footer = "Any recipe file that LLM Compressor accepts works as well: --recipe path/to/recipe.yaml"
    return _table(["recipe", "what it is for"], cells, [False, False], footer, width, color)


def _count(parameters: int) -> str:
    return f"{parameters:,}" if parameters else "-"


def _json(name: str, records: list[dict[str, object]]) -> str:
    return json.dumps({"schema_version": 1, name: records}, indent=1, ensure_ascii=False) + "\n"


def _markdown(titles: list[str], cells: list[list[str]], right: list[bool]) -> str:
    return markdown_table(titles, right, [[escape(cell) for cell in line] for line in cells]) + "\n"


def _table(
    titles: list[str], cells: list[list[str]], right: list[bool], footer: str, width: int | None, color: bool
) -> str:
    table = ruled_table()
    for place, (title, is_number) in enumerate(zip(titles, right, strict=True)):
        table.add_column(title, justify="right" if is_number else "left", no_wrap=place == 0, overflow="fold")
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    return draw(Group(table, Text(), Text(footer, style="dim")), width=width, color=color)
