"""A model's onload units: what the library brings to the GPU, in the order of the forward pass."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.models.kinds import BESIDE_TEXT
from planner.notes import texts
from planner.reports.drawing import UNLIMITED, draw, pairs, ruled_table, width_of
from planner.reports.folding import label
from planner.reports.forms import Formats, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import decimals_for, gib, number
from planner.reports.step_table import short_name

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph, Onload, Unit

_TITLES = ("unit", "alike", "kind", "class", "GiB", "parameters", "Linears", "onloaded with")
_DISPENSABLE = (("kind",), ("kind", "parameters"), ("kind", "parameters", "onloaded with"))
_ONLOAD: dict["Onload", str] = {
    "own-subgraph": "own subgraph",
    "head": "head subgraph",
    "last": "last subgraph",
    "another": "another subgraph",
    "setup": "setup only",
    "never": "never",
}
_NUMBERS = ("alike", "GiB", "parameters", "Linears")


@dataclass(frozen=True, slots=True)
class _Alike:
    """Units with the same structure, side by side in the model or not."""

    units: tuple["Unit", ...]


def render(graph: "ModelGraph", *, width: int | None = None, color: bool = False) -> str:
    """A line per distinct unit, for people; numbers are those of one unit."""
    table = _widest(graph, width or UNLIMITED)
    footer = "sizes are of one unit   1 GiB is 2^30 bytes"
    content: list[RenderableType] = [pairs(_header(graph)), Text(), table, Text(footer, style="dim")]
    if graph.notes:
        content += [Text(), pairs([("" if place else "notes", note) for place, note in enumerate(texts(graph.notes))])]
    return draw(Group(*content), width=width, color=color)


def _widest(graph: "ModelGraph", width: int) -> Table:
    """The widest table that fits: first names are shortened, then the dispensable columns are left out."""
    body = _cells(graph)
    short = [[short_name(name), *others] for name, *others in body]
    shrinking_titles = (
        _TITLES,
        *(tuple(title for title in _TITLES if title not in left_out) for left_out in _DISPENSABLE),
    )
    tables = [_table(body, _TITLES), *(_table(short, titles) for titles in shrinking_titles)]
    return next((table for table in tables if width_of(table) <= width), tables[-1])


def _table(body: list[list[str]], titles: Sequence[str]) -> Table:
    table = ruled_table()
    for title in titles:
        table.add_column(title, justify="right" if title in _NUMBERS else "left", no_wrap=title in _NUMBERS)
    for cells in body:
        table.add_row(*(Text(cell) for title, cell in zip(_TITLES, cells, strict=True) if title in titles))
    return table


def render_markdown(graph: "ModelGraph") -> str:
    """The same as a markdown table."""
    head = "\n".join(f"- {name}: {text}" if name else f"  {text}" for name, text in _header(graph))
    body = [[escape(cell) for cell in cells] for cells in _cells(graph)]
    text = markdown_table(_TITLES, [title in _NUMBERS for title in _TITLES], body)
    notes = "".join(f"\n- note: {note}" for note in texts(graph.notes))
    return f"### {escape(graph.name)}\n\n{head}\n\n{text}\n{notes}"


def render_json(graph: "ModelGraph") -> str:
    """Every unit, unfolded, and one batch's tensors between them: {"name": ..., "units": [...], "edges": [...]}."""
    record = {
        "schema_version": 1,
        "name": graph.name,
        "architecture": graph.architecture,
        "parameters": graph.parameters,
        "bytes": graph.bytes,
        "not_loaded_parameters": graph.not_loaded_parameters,
        "notes": list(texts(graph.notes)),
        "units": [_fields(unit) for unit in graph.units],
        "edges": [
            {"source": e.source, "target": e.target, "tensors": [{"name": n, "bytes": b} for n, b in e.tensors]}
            for e in graph.edges
        ],
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def _fields(unit: "Unit") -> dict[str, object]:
    """The unit's fields in schema version 1, which has `onload` in words."""
    fields = asdict(unit)
    del fields["is_target"]
    return {**fields, "onload": _onload_words(unit)}


def _onload_words(unit: "Unit") -> str:
    """The subgraph with which the unit goes to the GPU, in words."""
    if unit.onload == "never" and unit.kind in BESIDE_TEXT:
        return "never (text only)"
    return _ONLOAD[unit.onload]


def _header(graph: "ModelGraph") -> list[tuple[str, str]]:
    lines = [
        ("model", f"{graph.name} ({graph.architecture})"),
        ("", f"{graph.parameters:,} parameters, {gib(graph.bytes)}"),
    ]
    if graph.not_loaded_parameters:
        lines.append(("", f"the checkpoint holds {graph.not_loaded_parameters:,} parameters more, not loaded"))
    return lines


def _cells(graph: "ModelGraph") -> list[list[str]]:
    decimals = decimals_for(max((unit.bytes for unit in graph.units), default=0))
    return [_line(alike, decimals) for alike in _fold(graph.units)]


def _line(alike: _Alike, decimals: int) -> list[str]:
    unit, count = alike.units[0], len(alike.units)
    return [
        label([each.name for each in alike.units]),
        f"{count}" if count > 1 else "-",
        unit.kind,
        unit.class_name,
        number(unit.bytes, decimals),
        f"{unit.parameters:,}",
        f"{unit.linears:,}" if unit.linears else "-",
        _onload_words(unit),
    ]


def _fold(units: Sequence["Unit"]) -> list[_Alike]:
    groups: dict[object, list[Unit]] = {}
    for unit in units:
        groups.setdefault((unit.kind, unit.structure, unit.onload), []).append(unit)
    return [_Alike(tuple(group)) for group in groups.values()]


FORMATS: "Formats[ModelGraph]" = {
    "table": render,
    "json": everywhere(render_json),
    "markdown": everywhere(render_markdown),
}
