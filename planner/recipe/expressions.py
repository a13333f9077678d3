"""Regular expressions of recipes: compiled once, and none that runs for ever.

LLM Compressor matches with Python's `re`, which tries every way to divide a name among repetitions and cannot be
stopped: a pattern of 30 characters can take longer than the job. Such patterns are run by the `regex` package here,
which means the same by them and heeds a time limit.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import regex

from planner.errors import RecipeError
from planner.hints import shorten
from planner.notes import Note

SECONDS = 1.0
"""For one name. Names have up to a hundred characters, and an ordinary pattern takes a microsecond."""
MAX_EXPRESSIONS = 1000
"""In one list; each is compared with every module. Whole names cost nothing and are not counted."""
_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")
_REPETITION = re.compile(r"(?<!\\)[*+]|(?<!\\)\{\d*,\}")
_FEW = 4
"""Repetitions in a row that `re` gets through: a name of 100 characters can be divided among them in 4 million ways."""


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], object]:
    """compressed_tensors/utils/match.py `match_name`: `re:` patterns from the start of a name, other text as a whole.

    The function raises RecipeError for a name over which the pattern takes too long.
    """
    if not pattern.startswith("re:"):
        return pattern.__eq__
    text = pattern.removeprefix("re:")
    if may_hang(pattern):
        return partial(_timed, regex.compile(text), pattern)
    if text.startswith(".*") and text[2:3] not in ("?", "+", "*", "{") and "|" not in text:
        # `match` of `.*X` is `search` of `X` (names have no line breaks), and several times faster
        return re.compile(text[2:]).search
    return re.compile(text).match


def may_hang(pattern: str) -> bool:
    """Whether `re` may try so many ways that it never comes back: a repeated group, or many repetitions."""
    text = pattern.removeprefix("re:")
    return bool(_REPEATED_GROUP.search(text)) or len(_REPETITION.findall(text)) > _FEW


def hanging_notes(fields: Any, where: str) -> Iterator[Note]:
    """A note for each pattern, anywhere in a recipe's entry, that LLM Compressor may not come back from."""
    if isinstance(fields, str):
        if fields.startswith("re:") and _REPEATED_GROUP.search(fields):
            yield Note(
                kind="recipe",
                text=f"{where}: {shorten(fields)} repeats a group; Python's re, with which LLM Compressor matches, may "
                "take for ever over such a pattern. This plan took what it means.",
            )
    elif isinstance(fields, dict):
        for key, value in fields.items():
            yield from hanging_notes(value, f"{where}.{key}")
    elif isinstance(fields, list):
        for value in fields:
            yield from hanging_notes(value, where)


def _timed(expression: "regex.Pattern[str]", pattern: str, name: str) -> object:
    try:
        return expression.match(name, timeout=SECONDS)
    except TimeoutError:
        raise RecipeError(
            f"{shorten(pattern)} takes over {SECONDS:g} s to compare with {shorten(name)}, and LLM Compressor would "
            "take as long or longer; write it without repetitions inside repetitions"
        ) from None
