"""A recipe's patterns, tried on the model's names before the library does: `re` may never come back from one."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from planner.errors import RehearseError
from planner.hints import shorten
from planner.models.experts import linearize
from planner.recipe.expressions import may_hang

SECONDS = 10
"""For all of them: an ordinary pattern is done with DeepSeek-R1's 45,000 names in a tenth of a second."""

_TRY = """
import json, re, sys
for pattern, names in json.load(sys.stdin):
    expression = re.compile(pattern.removeprefix("re:"))
    for name in names:
        expression.match(name)
    print("done", flush=True)
"""


def check_patterns(recipe: Any, build: Callable[[], torch.nn.Module]) -> None:
    """Raise RehearseError for a `re:` pattern of the recipe from which the library would not come back.

    `build` makes the model, without weights; it is called only if some pattern looks as if it could hang.
    """
    doubtful = [pattern for pattern in dict.fromkeys(_texts(recipe)) if pattern.startswith("re:") and may_hang(pattern)]
    if doubtful:
        model: Any = build()
        linearize(model, model.config, True)
        _try(doubtful, [name for name, _ in model.named_modules()])


def _try(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Match in a process of its own: `re` cannot be stopped."""
    command = [sys.executable, "-c", _TRY]
    given = json.dumps([[pattern, names] for pattern in patterns]).encode()
    try:
        subprocess.run(command, input=given, capture_output=True, check=False, timeout=SECONDS)  # noqa: S603  (our own lines)
    except subprocess.TimeoutExpired as late:
        done = min((late.stdout or b"").count(b"done"), len(patterns) - 1)
        raise RehearseError(
            f"{shorten(patterns[done])} takes over {SECONDS} s to compare with the model's {len(names):,} names, and "
            "LLM Compressor matches as this does; write it without repetitions inside repetitions"
        ) from None


def _texts(entry: Any) -> Iterator[str]:
    """Every text in a recipe, keys left out."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict | list):
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from _texts(each)
