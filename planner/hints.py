"""How messages suggest names (`did you mean ...?`) and shorten texts, the same everywhere."""

import difflib
from collections.abc import Iterable

MAX_SHOWN = 80
MAX_PATH_SHOWN = 4096


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the choice that looks most like the word, else an empty text."""
    close = closest(word, choices, shown=1)
    return f"; did you mean {close[0]}?" if close else ""


def closest(word: str, choices: Iterable[str], shown: int, cutoff: float = 0.6) -> list[str]:
    """The choices that begin with the word, punctuation and case aside, then those that look most like it."""
    by_lower = {choice.lower(): choice for choice in choices}
    lower = word.lower()[:MAX_SHOWN]
    start = _plain(lower)
    begin = [choice for choice in by_lower if len(start) > 1 and _plain(choice).startswith(start)]
    alike = difflib.get_close_matches(lower, list(by_lower), n=shown, cutoff=cutoff)
    return [by_lower[choice] for choice in dict.fromkeys((*begin, *alike))][:shown]


def _plain(text: str) -> str:
    return "".join(char for char in text if char.isalnum())


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
