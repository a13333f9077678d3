"""Every format of a model: a table for people, markdown to paste, JSON for programs."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.reports.drawing import draw, pairs, ruled_table
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import gib_short
from planner.serving.fit_schema import FormatRow, FormatTable
from planner.units import GB, GIB

_FITS = {True: "yes", False: "NO", None: "?"}
_STYLE = {True: "green", False: "red", None: ""}
_LEGEND = "file: 10^9 bytes   weights, total: GiB (2^30 bytes) on GPUs together, on the fullest GPU"
_CONTEXT = "   * all that the config allows"
_TOGETHER = "   tokens/s: of all sequences together"
_NO_SPEED = "   ?: not known without memory bandwidth (--gpu with a name, or --bandwidth)"
NAMES_SHOWN = 3


def render(table: FormatTable, *, width: int | None = None, color: bool = False) -> str:
    """Header, the formats family by family, notes."""
    content: list[RenderableType] = [pairs(header(table)), Text(), grid(table.formats, table.gpu is not None)]
    content += [Text(_legend(table), style="dim"), Text(), pairs(list(_remarks(table)))]
    return draw(Group(*content), width=width, color=color)


def _legend(table: FormatTable) -> str:
    rows = table.formats
    remarks = [
        (any(row.all_positions for row in rows), _CONTEXT),
        (table.gpu is not None and table.batch > 1, _TOGETHER),
        (any(row.fits and row.tokens_per_second is None for row in rows), _NO_SPEED),
    ]
    return _LEGEND + "".join(text for applies, text in remarks if applies)


def render_markdown(table: FormatTable) -> str:
    """The same in markdown."""
    head = "\n".join(f"- {name}: {escape(text)}" if name else f"  {escape(text)}" for name, text in header(table))
    last = "\n".join(f"- {name}: {text}" if name else f"- {text}" for name, text in _remarks(table))
    body = markdown_rows(table.formats, table.gpu is not None)
    return "\n\n".join(part for part in (f"### {escape(table.model.name)}", head, body, last) if part) + "\n"


def header(table: FormatTable) -> list[tuple[str, str]]:
    """The model and the serving options, as (name, text) lines."""
    model, options = table.model, table.options
    served = f"{table.context:,} tokens, batch {table.batch}, KV cache in {cache_words(options.kv_dtype)}"
    lines = [
        ("model", f"{model.name} ({model.architecture})"),
        ("", f"{model.parameters:,} parameters"),
        ("serving", served),
    ]
    if table.gpu is not None:
        count = f"{options.gpus} x " if options.gpus > 1 else ""
        lines.append(("GPU", f"{count}{table.gpu.name}, {gib_short(table.gpu.memory_bytes)}"))
    return lines


def cache_words(kv_dtype: str) -> str:
    """The KV cache's type in words; `auto` is each engine's own default."""
    return "16 bit, or as the recipe says" if kv_dtype == "auto" else kv_dtype


def titles(with_gpu: bool) -> list[str]:
    """Titles of the columns; without a GPU there is no column on what fits."""
    base = ["format", "file GB", "weights", "bits", "total"]
    return [*base, "fits", "context", "tokens/s"] if with_gpu else base


def grid(rows: Sequence[FormatRow], with_gpu: bool) -> Table:
    """The rows as a table for people, with a line for each family."""
    table, names = ruled_table(), titles(with_gpu)
    for place, name in enumerate(names):
        right = place and name != "fits"
        table.add_column(name, justify="right" if right else "left", no_wrap=place > 0, overflow="fold")
    for family, members in groupby(rows, key=lambda row: row.family):
        table.add_row(Text(family, style="bold"))
        for group in folded(list(members)):
            table.add_row(*_texts(group, with_gpu))
    return table


def markdown_rows(rows: Sequence[FormatRow], with_gpu: bool) -> str:
    """The rows as a markdown table, the family in a column of its own."""
    names = titles(with_gpu)
    body = [
        [escape(cell) for cell in (group[0].family, *cells(group, with_gpu))]
        for _, members in groupby(rows, key=lambda row: row.family)
        for group in folded(list(members))
    ]
    right = [False, *(place > 0 and name != "fits" for place, name in enumerate(names))]
    return markdown_table(["family", *names], right, body)


def folded(rows: Sequence[FormatRow]) -> list[list[FormatRow]]:
    """Rows with the same numbers, grouped."""
    groups: dict[object, list[FormatRow]] = {}
    for row in rows:
        if row.problem is None:
            groups.setdefault((row.file_bytes, row.weights_bytes, row.total_bytes, row.max_context), []).append(row)
    return list(groups.values())


def cells(group: Sequence[FormatRow], with_gpu: bool) -> list[str]:
    """The cells of one line of the table."""
    row = group[0]
    assert row.file_bytes is not None and row.weights_bytes is not None and row.total_bytes is not None
    shown = [
        _names(group),
        f"{row.file_bytes / GB:,.2f}",
        f"{row.weights_bytes / GIB:,.2f}",
        "?" if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}",
        f"{row.total_bytes / GIB:,.2f}",
    ]
    if with_gpu:
        context = "?" if row.max_context is None else f"{row.max_context:,}" if row.max_context else "-"
        speed = "?" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}"
        shown += [_FITS[row.fits], context + ("*" if row.all_positions else " "), speed if row.fits else "-"]
    return shown


def _texts(group: Sequence[FormatRow], with_gpu: bool) -> list[Text]:
    texts = [Text(cell) for cell in cells(group, with_gpu)]
    texts[0] = Text("  ") + texts[0]
    if with_gpu:
        texts[5].stylize(_STYLE[group[0].fits])
    return texts


def _names(group: Sequence[FormatRow]) -> str:
    names = [row.name for row in group]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _remarks(table: FormatTable) -> Iterator[tuple[str, str]]:
    """Formats that cannot hold the model, by reason; then the notes that all formats or a whole family share."""
    reasons: dict[str, list[str]] = {}
    for row in table.formats:
        if row.problem is not None:
            reasons.setdefault(row.problem.removeprefix(f"{row.name}: "), []).append(row.name)
    for place, (reason, names) in enumerate(reasons.items()):
        few = ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > 3 else "")
        yield ("cannot" if place == 0 else "", f"{few}: {reason}")
    for place, note in enumerate(shared_notes([row for row in table.formats if row.problem is None])):
        yield ("notes" if place == 0 else "", note)


def shared_notes(rows: Sequence[FormatRow]) -> list[str]:
    """Notes that all rows share, and those of whole families with the families' names; only JSON has all others."""
    owners: dict[str, list[FormatRow]] = {}
    for row in rows:
        for note in row.notes:
            owners.setdefault(note, []).append(row)
    shared = []
    for note, with_note in owners.items():
        families = list(dict.fromkeys(row.family for row in with_note))
        if len(with_note) == len(rows):
            shared.append(note)
        elif len(with_note) == sum(row.family in families for row in rows):
            shared.append(f"{', '.join(families)}: {note}")
    return shared


FORMATS: Formats[FormatTable] = {"table": render, "json": as_json, "markdown": everywhere(render_markdown)}
