"""How tables and texts are drawn with rich, the same in every report."""

import io
import re
import shlex
from collections.abc import Iterator, Sequence

from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# Columns. Wide enough for every table; used for output into a pipe or a file.
UNLIMITED = 250

NAMES = len("GPU peak")
"""Columns of the names in front of lines."""

_RULED = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


def draw(content: RenderableType, *, width: int | None, color: bool) -> str:
    """The text that rich draws of `content` on such a terminal, without trailing blanks."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width or UNLIMITED,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(content)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n")) + "\n"


def ruled_table() -> Table:
    """A table with a rule under its head and no other lines, easy to read and to copy."""
    return Table(box=_RULED, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)


def width_of(table: Table) -> int:
    """Width of the table, in characters, where nothing limits it."""
    return Console(width=10 * UNLIMITED, file=io.StringIO()).measure(table).maximum


class Named:
    """A text with names of modules in a column: a name that is too long is broken before a dot, and words never are."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        longest = max(map(len, re.split(r"\s+|(?=\.)", self.text)), default=0)
        return Measurement(longest, len(self.text)).with_maximum(options.max_width)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text("\n".join(broken(self.text, options.max_width)), overflow="fold")


def broken(text: str, width: int) -> list[str]:
    """The text in lines of this width, broken between words, and before dots in words that are longer than a line."""
    lines = [""]
    for word in text.split():
        blank = " " if lines[-1] else ""
        pieces = [word] if len(word) <= width else re.split(r"(?<=.)(?=\.)", word)
        for piece in pieces:
            if len(lines[-1]) + len(blank) + len(piece) <= width:
                lines[-1] += blank + piece
            else:
                lines.append(piece)
            blank = ""
    return lines if lines[0] or len(lines) == 1 else lines[1:]


def listed(
    titles: Sequence[str],
    right: Sequence[bool],
    body: Sequence[Sequence[str]],
    width: int | None,
    first_to_go: Sequence[str] = (),
) -> Table:
    """A table of texts, `right` for columns of numbers. Where there is no room for it, columns are left out, in the
    order of `first_to_go`, until there is; then texts are wrapped."""
    shown = list(titles)
    for title in (*first_to_go, None):
        table = ruled_table()
        for name, is_number in zip(titles, right, strict=True):
            if name in shown:
                is_first = name == titles[0]
                table.add_column(name, justify="right" if is_number else "left", no_wrap=is_first, overflow="fold")
        for cells in body:
            row = zip(titles, cells, strict=True)
            table.add_row(*(Text(cell) if name == titles[0] else Named(cell) for name, cell in row if name in shown))
        if title is None or width_of(table) <= (width or UNLIMITED):
            break
        shown.remove(title)
    return table


def grid() -> Table:
    """Lines with a bold name in front, or nothing; long ones are wrapped between words."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="bold", no_wrap=True, min_width=NAMES)
    lines.add_column(overflow="fold")
    return lines


def pairs(lines: Sequence[tuple[str, str]]) -> Table:
    """A grid of (name, text) lines, the names in a bold column."""
    result = grid()
    for name, text in lines:
        result.add_row(name, Text(text))
    return result


def command_lines(command: str, width: int | None, indent: int = NAMES + 2) -> list[str]:
    """A command to copy as it is, on a terminal of this width, behind so many blanks: a shell reads on after a line
    that ends in a backslash."""
    if width is None:
        return [command] if command else []
    lines: list[str] = []
    for word in _options(shlex.split(command)):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and len(longer) > width - indent - 2:
            lines.append(f"  {word}")
        else:
            lines[-1:] = [longer]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _options(words: Sequence[str]) -> list[str]:
    """The words of a command, quoted, each option with its value."""
    together: list[str] = []
    for word in words:
        is_value = together and together[-1].startswith("-") and " " not in together[-1] and not word.startswith("-")
        together[len(together) - bool(is_value) :] = [
            f"{together[-1]} {shlex.quote(word)}" if is_value else shlex.quote(word)
        ]
    return together
