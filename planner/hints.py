"""How messages suggest names (`did you mean ...?`) and shorten texts, the same everywhere."""

import difflib
from collections.abc import Iterable

MAX_SHOWN = 80
MAX_PATH_SHOWN = 4096


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the choice that looks most like the word, else an empty text."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower()[:MAX_SHOWN], list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def nearest(word: str, choices: Iterable[str], shown: int = 3) -> list[str]:
    """The choices that look most like the word, however little they do."""
    return difflib.get_close_matches(word.lower()[:MAX_SHOWN], list(choices), n=shown, cutoff=0.0)


def shorten(text: str, longest: int = MAX_SHOWN) -> str:
    """The text on one line, printable, and cut where it would fill the screen."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= longest else line[: longest - 3] + "..."


def few(names: Iterable[str], shown: int = 1) -> str:
    """The first names and how many more there are: `a, b and 7 more`."""
    listed = list(names)
    not_shown = len(listed) - shown
    return ", ".join(listed[:shown]) + (f" and {not_shown} more" if not_shown > 0 else "")
