"""What a GPU holds beside weights, cache and activations: named parts, each with a source and an own override."""

import re
from fractions import Fraction
from math import ceil

from planner.errors import JobError
from planner.hints import did_you_mean
from planner.serving.engines.facts import CONTEXT, CONTEXT_SOURCE, FLAT, PARTS, SHARE, EngineFacts
from planner.serving.schema import OverheadPart, ServeOptions
from planner.units import parse_bytes

_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def overhead_parts(
    engine: EngineFacts, options: ServeOptions, *, weights: int, memory: int | None
) -> tuple[OverheadPart, ...]:
    """The parts on one GPU that holds `weights` bytes of weights and has `memory` bytes in all, if that is known."""
    if options.overhead is not None:
        return (_flat(options.overhead, weights),)
    for name in options.reserve:
        if name not in PARTS:
            hint = did_you_mean(name, PARTS) or f"; the parts are {', '.join(PARTS)}"
            raise JobError(f"unknown overhead part {name!r}{hint}")
    context = OverheadPart(name=CONTEXT, bytes=engine.context_bytes, source=CONTEXT_SOURCE)
    parts = {part.name: part for part in (context, *engine.pools)}
    for name, size in options.reserve.items():
        parts[name] = OverheadPart(name=name, bytes=size, source="as given")
    if engine.left_to_others is not None and memory is not None and SHARE not in options.reserve:
        parts[SHARE] = engine.left_to_others(options.gpu_memory_utilization, memory, parts[CONTEXT].bytes)
    return tuple(parts[name] for name in PARTS if name in parts)


def flat_share(text: str) -> Fraction | int:
    """A share of the weights (`20%`), or bytes (`2GiB`, 0). Raises JobError for anything else."""
    if match := _PERCENT.fullmatch(text):
        return Fraction(match[1]) / 100
    if text.strip() == "0":
        return 0
    try:
        return parse_bytes(text)
    except JobError:
        raise JobError(f"overhead {text!r}: write a share of the weights like 20%, or a size like 2GiB") from None


def _flat(text: str, weights: int) -> OverheadPart:
    flat = flat_share(text)
    count = ceil(weights * flat) if isinstance(flat, Fraction) else flat
    return OverheadPart(name=FLAT, bytes=count, source="as given: " + text.strip())
