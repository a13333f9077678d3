"""How many samples of which length a script uses, read off its constants."""

import ast
import re
from pathlib import Path

_SAMPLES = re.compile(r"samples", re.IGNORECASE)
_TOKENS = re.compile(r"(max_?seq|seq_?len|max_?len)", re.IGNORECASE)


def guessed(script: Path) -> tuple[int | None, int | None]:
    """(samples, tokens of each): the largest numbers that the script gives to names, arguments and options that sound
    so; None where it gives none."""
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return None, None
    found = [*_named(tree)]
    samples = [value for name, value in found if _SAMPLES.search(name)]
    tokens = [value for name, value in found if _TOKENS.search(name)]
    return max(samples, default=None), max(tokens, default=None)


def _named(tree: ast.AST) -> list[tuple[str, int]]:
    """Every whole number that is assigned to a name, passed under one, or the default of one."""
    return [
        (name, value.value)
        for node in ast.walk(tree)
        for name, value in _pairs(node)
        if isinstance(value, ast.Constant) and type(value.value) is int and value.value > 0
    ]


def _pairs(node: ast.AST) -> list[tuple[str, ast.expr | None]]:
    """The names that this piece of code gives values to."""
    if isinstance(node, ast.Assign):
        return [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [(node.target.id, node.value)]
    if isinstance(node, ast.keyword) and node.arg:
        return [(node.arg, node.value)]
    if isinstance(node, ast.arguments):
        places = [*node.posonlyargs, *node.args]
        last = places[len(places) - len(node.defaults) :]
        return [
            *((each.arg, value) for each, value in zip(last, node.defaults, strict=True)),
            *((each.arg, value) for each, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)),
        ]
    if isinstance(node, ast.Call):  # add_argument("--max-seq-length", default=64) and click's option
        options = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        defaults = [each.value for each in node.keywords if each.arg == "default"]
        return [(text.replace("-", "_"), value) for text in options if text.startswith("-") for value in defaults]
    return []
