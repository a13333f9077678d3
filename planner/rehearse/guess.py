"""How many samples of which length a script uses, read off its constants."""

import ast
import re
from pathlib import Path

SAMPLES, TOKENS = 512, 2048
_SAMPLES = re.compile(r"samples", re.IGNORECASE)
_TOKENS = re.compile(r"(max_?seq|seq_?len|max_?len)", re.IGNORECASE)


def guessed(script: Path) -> tuple[int, int]:
    """(samples, tokens of each): the largest numbers that the script gives to names and arguments that sound so."""
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return SAMPLES, TOKENS
    found = [*_named(tree)]
    samples = [value for name, value in found if _SAMPLES.search(name)]
    tokens = [value for name, value in found if _TOKENS.search(name)]
    return max(samples, default=SAMPLES), max(tokens, default=TOKENS)


def _named(tree: ast.AST) -> list[tuple[str, int]]:
    """Every whole number that is assigned to a name or passed under one."""
    pairs: list[tuple[str, ast.expr]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            pairs += [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.keyword) and node.arg:
            pairs.append((node.arg, node.value))
    return [
        (name, value.value)
        for name, value in pairs
        if isinstance(value, ast.Constant) and type(value.value) is int and value.value > 0
    ]
