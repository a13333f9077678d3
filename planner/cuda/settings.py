"""PYTORCH_ALLOC_CONF: how PyTorch's caching allocator is told to behave.

Words and rules are those of torch 2.14 (c10/core/AllocatorConfig.cpp, c10/cuda/CUDAAllocatorConfig.cpp), checked
against it. Only the refusals of numbers that PyTorch misreads are our own: it takes 21.5 for 21, and -1 for 2^64 - 1.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from planner.errors import JobError, UnsupportedError
from planner.hints import did_you_mean, shorten
from planner.units import BLOCK, MIB

INTERVALS = 16
"""Requests are rounded by their size: below 2 MiB, below 4 MiB, and so on; the last interval begins at 32 GiB."""
FIRST_INTERVAL_ENDS_AT_BIT = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorSettings:
    """The settings that decide about memory, with PyTorch's defaults (c10/core/AllocatorConfig.h)."""

    max_split_size: int | None = None
    """Bytes. Blocks from this size on are not split, and not used for smaller requests. None: every block is."""
    max_non_split_rounding: int = 20 * MIB
    """By how much a block from `max_split_size` on may exceed the request that it is given to."""
    roundup_power2_divisions: tuple[int, ...] = (0,) * INTERVALS
    """Requests are rounded up to one of so many steps between powers of two; 0 or 1: not. One number an interval."""
    large_segment_size: int = 20 * MIB
    """The segment for requests above 1 and below 10 MiB."""
    garbage_collection: float = 0.0
    """Share of the process's limit above which old free segments are given back. Nothing without a limit."""
    memory_fraction: float | None = None
    """The process's limit as a share of the card (`per_process_memory_fraction`)."""
    expandable_segments: bool = False
    """One growing segment a pool, instead of many of fixed size."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The settings of a text like `max_split_size_mb:128,expandable_segments:True`; of a key that comes twice,
        the last one counts. An empty text: the defaults.

        Raises JobError for what PyTorch refuses, UnsupportedError for another allocator than PyTorch's own.
        """
        values = dict(_pairs("".join(text.split())))
        # the large segment first: two others must not be smaller, wherever they stand in the text
        large = int(_value("large_segment_size_mb", values, _large_segment, 20)) * MIB
        given: dict[str, Any] = {"large_segment_size": large}
        _value("backend", values, _backend, None)
        for key in values:
            if key in _READERS:
                name, read = _READERS[key]
                given[name] = _value(key, values, read, None)
            elif key in _NOT_SMALLER:
                given[_NOT_SMALLER[key]] = _value(key, values, lambda value: _not_below(value, large), None)
        return cls(**given)

    def rounded(self, nbytes: int) -> int:
        """The size of the block for a request (c10/cuda/CUDACachingAllocator.cpp round_size)."""
        interval = min(max(0, nbytes.bit_length() - FIRST_INTERVAL_ENDS_AT_BIT), INTERVALS - 1)
        divisions = self.roundup_power2_divisions[interval]
        if divisions > 1 and nbytes > BLOCK * divisions:
            return _next_division(nbytes, divisions)
        return max(BLOCK, -(-nbytes // BLOCK) * BLOCK)

    @property
    def is_limited(self) -> bool:
        """The process heeds the card's size before it runs into the end of it."""
        return self.memory_fraction is not None or bool(self.garbage_collection)

    def limit(self, total: int | None) -> int | None:
        """Bytes that the process may reserve, where it was told."""
        return int(self.memory_fraction * total) if self.memory_fraction is not None and total is not None else None


DEFAULT = AllocatorSettings()


def _next_division(nbytes: int, divisions: int) -> int:
    """roundup_power2_next_division: 1,200 with four divisions lies between 1,024 and 2,048, steps of 256: 1,280."""
    if nbytes & (nbytes - 1) == 0:
        return nbytes
    step = (1 << (nbytes.bit_length() - 1)) // divisions
    return -(-nbytes // step) * step


# ---------------------------------------------------------------------- PYTORCH_ALLOC_CONF as a text
_WHERE = "PYTORCH_ALLOC_CONF"


class _Refused(Exception):  # noqa: N818  (it becomes a JobError, with the key)
    """Why a value cannot be, and what can."""


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """(key, value) of each setting; a comma between brackets belongs to the value."""
    rest = text
    while rest:
        match = re.match(r"([^:,\[\]]+):(\[[^\[\]]*\]|[^:,\[\]]+)(?:,|$)", rest)
        if match is None:
            raise JobError(f"{_WHERE}: {shorten(rest)!r} is not KEY:VALUE; write max_split_size_mb:128,KEY:VALUE,...")
        key, value = match.groups()
        if key not in KEYS:
            raise JobError(f"{_WHERE}: PyTorch has no setting {shorten(key)!r}{did_you_mean(key, KEYS) or _ALL}")
        yield key, value
        rest = rest[match.end() :]


def _value(key: str, values: dict[str, str], read: Callable[[str], Any], default: Any) -> Any:
    if key not in values:
        return default
    try:
        return read(values[key])
    except _Refused as error:
        raise JobError(f"{_WHERE}: {key}:{shorten(values[key])}: {error}") from None


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise _Refused("not a whole number; write one, without a unit")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", text):
        raise _Refused("not a number; write a share, like 0.8")
    return float(text)


def _large_segment(text: str) -> int:
    if _whole(text) <= 10:
        raise _Refused("PyTorch wants more than 10 MiB; write 11 or more")
    return _whole(text)


def _not_below(text: str, least: int) -> int:
    if _whole(text) * MIB < least:
        raise _Refused(f"PyTorch wants at least the large segment's size; write {least // MIB} or more")
    return _whole(text) * MIB


def _threshold(text: str) -> float:
    if not 0 < _share(text) < 1:
        raise _Refused("PyTorch wants a share between 0 and 1, like 0.8")
    return _share(text)


def _fraction(text: str) -> float | None:
    """All of the card is no limit (DeviceCachingAllocator's set_fraction stays false)."""
    if _share(text) > 1:
        raise _Refused("PyTorch wants a share of at most 1")
    return _share(text) if _share(text) < 1 else None


def _switch(text: str) -> bool:
    if text not in ("True", "False"):
        raise _Refused("write True or False")
    return text == "True"


def _divisions(text: str) -> tuple[int, ...]:
    """parseRoundUpPower2Divisions. In a list, a size in MiB names the interval that begins there."""
    if not text.startswith("["):
        divisions = _power(text, "divisions")
        return (divisions,) * INTERVALS
    by_interval, last = [0] * INTERVALS, None
    for entry in filter(None, text[1:-1].split(",")):
        size, colon, divisions_text = entry.partition(":")
        if not colon:
            raise _Refused("in brackets, write SIZE:DIVISIONS,..., like [256:1,512:2,>:8]")
        divisions = 0 if divisions_text == "0" else _power(divisions_text, "divisions")
        if size == ">":
            above = (last or 0) + 1
            by_interval[above:] = [divisions] * (INTERVALS - above)
            continue
        interval = min(_power(size, "sizes").bit_length() - 1, INTERVALS - 1)
        if last is None:  # the first one holds for all smaller requests too
            by_interval[:interval] = [divisions] * interval
        by_interval[interval] = divisions
        last = interval
    return tuple(by_interval)


def _power(text: str, what: str) -> int:
    number = _whole(text)
    if number.bit_count() != 1:
        raise _Refused(f"PyTorch wants powers of two as {what}, not {number}")
    return number


def _backend(text: str) -> None:
    if text != "native":
        raise UnsupportedError(
            f"{_WHERE}: backend:{shorten(text)}: planner models PyTorch's own allocator; leave backend out"
        )


_NOT_SMALLER = {"max_split_size_mb": "max_split_size", "max_non_split_rounding_mb": "max_non_split_rounding"}
_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "garbage_collection_threshold": ("garbage_collection", _threshold),
    "per_process_memory_fraction": ("memory_fraction", _fraction),
    "roundup_power2_divisions": ("roundup_power2_divisions", _divisions),
    "expandable_segments": ("expandable_segments", _switch),
}
# Host memory, locks and messages: nothing on the card.
_WITHOUT_EFFECT = (
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "pinned_max_cached_size_mb",
    "pinned_max_round_threshold_mb",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "release_lock_on_cudamalloc",
    "throw_on_cudamalloc_oom",
)
KEYS = ("large_segment_size_mb", *_NOT_SMALLER, *_READERS, "backend", *_WITHOUT_EFFECT)
_ALL = f"; it has {', '.join(KEYS[:7])}"
