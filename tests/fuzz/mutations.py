"""Small changes to trees and texts: what a typo, a half-written file or another tool's habits make of them."""

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

Path = tuple[Any, ...]
"""Keys and numbers from the root of a tree to a value in it."""

PATTERNS = (
    "re:", "re:(", "re:.*", "re:[", "re:(a+)+$", "re:(([a-z._0-9]+)+)+!$", "re:(.*)*x$", "re:.*lm_head", "re:(?P<a>b)",
    "re:\\", "re:^$", "re:(?!x).*", "re:a{1,99999}", "re:.*\\.(\\d+)\\..*",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 7, -1, 64, 100, 4096, 10**6, 10**9, 10**12, 2**63, 10**30, 0.5, 1.5, -0.1, 1e-9, 1e300)
ODD = (None, True, False, "", " ", "0", "auto", "null", "Linear", "lm_head", "ü\u202e", "a" * 5000, "{}", "[1]")
NOT_NUMBERS = (float("nan"), float("inf"), -float("inf"))
TREES = (
    [],
    {},
    [[]],
    {"": 0},
    [None],
    ["Linear"],
    ["Linear", "Linear"],
    {"a": {"b": {"c": []}}},
    [1, "a", {}],
    [0] * 3000,
)


def value(rng: random.Random) -> Any:
    """Anything that a file could hold in a place where it has no business to be."""
    pool: Sequence[Any] = rng.choice((NUMBERS, NUMBERS, ODD, PATTERNS, NOT_NUMBERS, TREES))
    return copy.deepcopy(rng.choice(pool))


def nested(rng: random.Random, depth: int) -> Any:
    """A tree of this depth."""
    tree: Any = value(rng)
    for _ in range(depth):
        tree = [tree] if rng.random() < 0.5 else {"a": tree}
    return tree


def mutated(tree: Any, rng: random.Random, names: Sequence[str] = ()) -> Any:
    """A copy with one to four changes; `names` are keys that mean something somewhere in such a tree."""
    result = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        places = list(_places(result))
        if not places:
            return result
        _change(result, rng.choice(places), rng, names)
    return result


def edited(text: str, rng: random.Random) -> str:
    """The text with one to four of its lines, words or characters gone, doubled, swapped or replaced."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        text = rng.choice((_without_a_line, _line_again, _with_a_word, _cut, _indented, _with_a_character))(text, rng)
    return text


def _places(tree: Any, path: Path = ()) -> Iterator[Path]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in list(pairs)[:200]:
        yield (*path, key)
        yield from _places(child, (*path, key))


def _change(root: Any, path: Path, rng: random.Random, names: Sequence[str]) -> None:
    parent = root
    for key in path[:-1]:
        parent = parent[key]
    key, how = path[-1], rng.randrange(8)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[_name(rng, names)] = parent.pop(key)
    elif how == 2 and isinstance(parent, dict):
        parent[_name(rng, names)] = value(rng)
    elif how == 3:
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
    elif how == 4 and _is_number(parent[key]):
        parent[key] = parent[key] * rng.choice((-1, 2, 3, 0.5, 10**6)) + rng.choice((0, 1, -1))
    elif how == 5:
        parent[key] = nested(rng, rng.choice((1, 3, 30)))
    else:
        parent[key] = value(rng)


def _is_number(thing: Any) -> bool:
    return isinstance(thing, int | float) and not isinstance(thing, bool) and abs(thing) < 1e100


def _name(rng: random.Random, names: Sequence[str]) -> str:
    return rng.choice(names) if names and rng.random() < 0.8 else rng.choice(("", "a", "targets", "x" * 300, "ü", "0"))


def _lines(text: str, rng: random.Random) -> tuple[list[str], int]:
    lines = text.splitlines() or [""]
    return lines, rng.randrange(len(lines))


def _without_a_line(text: str, rng: random.Random) -> str:
    lines, at = _lines(text, rng)
    return "\n".join(lines[:at] + lines[at + 1 :])


def _line_again(text: str, rng: random.Random) -> str:
    lines, at = _lines(text, rng)
    return "\n".join([*lines[:at], lines[at] * rng.choice((1, 2)), *lines[at:]])


def _indented(text: str, rng: random.Random) -> str:
    lines, at = _lines(text, rng)
    lines[at] = rng.choice((" ", "  ", "\t", "- ", "? ", "&a ", "*a ", "!!python/name:os.system ", "<<: ")) + lines[at]
    return "\n".join(lines)


def _with_a_word(text: str, rng: random.Random) -> str:
    lines, at = _lines(text, rng)
    words = lines[at].split(" ")
    words[rng.randrange(len(words))] = str(value(rng))[:300]
    lines[at] = " ".join(words)
    return "\n".join(lines)


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _with_a_character(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice("\x00\x07\ud7ff\ufeff{}[]:,&*#?|-<>=!%@`'\"\\\n\t0aé") + text[at:]
