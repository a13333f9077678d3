"""The formats that weights are served in: one list, made of what each family of formats offers.

How a format works. A format is a rule from tensors to bytes: `store` takes a model's tensors (served_model.py, no
weights in it) and answers each with its type and its bytes in the file, on the GPU and in CPU memory (tensors.py
Stored). The rules are the tools' own, tensor by tensor: llama.cpp's choice of a type for each (gguf/), the compressors
of compressed-tensors for whatever scheme a recipe gives a module (compressed*.py), the blocks of bitsandbytes,
AutoGPTQ and ExLlama. A family is a module with `formats()` and `parse(text)`; nothing else knows a family's names.
mixed.py makes one model of several choices within a budget. No file here runs a model, imports torch or knows an
engine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import import_module
from typing import Any, Literal

from planner.errors import JobError
from planner.formats.served_model import ServedModel
from planner.formats.tensors import StoredModel
from planner.hints import did_you_mean, shorten

Family = Literal["plain", "bitsandbytes", "compressed-tensors", "gptq", "gguf", "exllama"]

# Each module offers `formats() -> Iterable[Format]` and `parse(text) -> Format | None` for names with a
# number or a path in them (`exl2:2.55`, a recipe file). Asked in this order.
_FAMILIES = ("plain", "bitsandbytes", "compressed", "autogptq", "gguf.formats", "exllama")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way to keep weights."""

    name: str
    """As the user types it; case is ignored."""
    family: Family
    summary: str
    """What it is, in a few words."""
    bits: Fraction | None
    """Bits of one weight of a quantized matrix, scales included: what `--params` multiplies with.
    None where only a model's own tensors can tell."""
    store: Callable[[ServedModel], StoredModel]
    """A model in this format. Raises PlannerError where the format cannot hold it."""
    aliases: tuple[str, ...] = ()


@cache
def all_formats() -> tuple[Format, ...]:
    """Every format with a fixed name, family by family."""
    return tuple(known for module in _modules() for known in module.formats())


def find_format(text: str) -> Format:
    """The format of this name, of a recipe, or with a number in it (`exl2:2.55`).

    Raises JobError for a name that no family knows.
    """
    wanted = text.strip().lower()
    named = {name.lower(): known for known in all_formats() for name in (*known.aliases, known.name)}
    if wanted in named:
        return named[wanted]
    for module in _modules():
        parsed: Format | None = module.parse(text.strip())
        if parsed is not None:
            return parsed
    hint = did_you_mean(wanted, [known.name for known in all_formats()]) or ";"
    raise JobError(f"unknown weight format {shorten(text)!r}{hint} `planner formats --help` says what there is")


def _modules() -> Iterator[Any]:
    return (import_module(f"planner.formats.{name}") for name in _FAMILIES)
