"""GPUs that jobs run on: memory as CUDA sees it, bandwidth, compute capability, rates, each with its source."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NotRequired, TypedDict

from planner.errors import JobError
from planner.hints import nearest, shorten
from planner.units import GB, GIB, MIB, format_bytes, parse_bytes

CUDA_CONTEXT = 520_000_000
"""Bytes that the CUDA context takes before PyTorch takes any: 0.3 to 0.6 GB, by driver, card and the kernels loaded."""
AS_GIVEN = "as given"
TABLE = Path(__file__).with_suffix(".json")
_FORM = re.compile(r"(\d+gb)?(sxm\d?|pcie|nvl)?(\d+gb)?")
"""What a name may leave out, in plain letters: memory and form factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one half of a card that shows itself as two."""

    name: str
    memory_bytes: int
    """The memory that CUDA can use, as PyTorch's out-of-memory errors name it (`a total capacity of 23.64 GiB`). It is
    less than the card has: the driver keeps 0.2 to 1.2 GiB, and ECC on GDDR a sixteenth. Where drivers or systems
    differ, this is the smallest value; where nobody published one, nvidia-smi's, else the data sheet's."""
    bandwidth: int | None
    """Bytes per second of its memory, by the data sheet; None where only the size is known."""
    source: str
    aliases: tuple[str, ...] = ()
    unified: bool = False
    """One memory for CPU and GPU."""
    label_gb: int | None = None
    """The number on the box, as in `24 GB`; None for unified memory and for a card that is given by its size."""
    sm: int | None = None
    """Compute capability as two or three digits, 90 for 9.0; None for other makers' cards and for a given size."""
    bf16_tflops: float | None = None
    """10^12 operations per second of dense bf16 products, without sparsity, as `bf16_source` has it. None: the card has
    no bf16 units, or nobody could look its figure up in a second place."""
    bf16_source: str | None = None
    driver_bytes: int | None = None
    """What nvidia-smi shows as the card's total: more than CUDA has of it."""


class GpuRow(TypedDict):
    """One row of the table, as a test holds every one to be; sizes in MiB, rates as data sheets have them."""

    name: str
    memory_mib: int
    bandwidth_gb_s: float
    source: str
    aliases: NotRequired[list[str]]
    unified: NotRequired[bool]
    label_gb: NotRequired[int]
    sm: NotRequired[int]
    bf16_tflops: NotRequired[float]
    bf16_source: NotRequired[str]
    driver_mib: NotRequired[int]


@cache
def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs of the table, in its order."""
    return tuple(_gpu(row) for row in json.loads(TABLE.read_text(encoding="utf-8"))["gpus"])


@cache
def _by_name() -> dict[str, Gpu]:
    return {_plain(name): gpu for gpu in list_gpus() for name in (*gpu.aliases, gpu.name)}


def find_gpu(text: str) -> Gpu:
    """The GPU of this name, or an unnamed one of this size (`24GiB`), whose bandwidth is unknown.

    Spaces, hyphens and case do not matter. Raises JobError for a text that is neither a name nor a size.
    """
    named = _by_name()
    if (gpu := named.get(_plain(text))) is not None:
        return gpu
    if text.strip()[:1].isdigit():
        try:
            size = parse_bytes(text)
        except JobError as error:
            raise JobError(f"GPU {error}") from None
        return Gpu(name=_size(size), memory_bytes=size, bandwidth=None, source=AS_GIVEN)
    if re.match(r"\s*[-+.]\s*\d", text):
        raise JobError(f"GPU {shorten(text)!r}: write its memory as a number above 0 and a unit, like 24GiB")
    names = dict.fromkeys(named[word].name for word in nearest(_plain(text), named, shown=5))
    raise JobError(
        f"unknown GPU {shorten(text)!r}; the nearest names are {', '.join(list(names)[:3])} "
        "(or give its memory, like 24GiB)"
    )


def named_gpu(text: str) -> Gpu | None:
    """The GPU of the table that is called so, also as drivers call it (`NVIDIA A100-SXM4-80GB`); else None."""
    try:
        gpu = find_gpu(text)
    except JobError:
        return None
    return gpu if gpu in list_gpus() else None


def matching_gpu(text: str, total: int) -> Gpu | None:
    """The GPU of this name that has this memory, as drivers and providers state it; else None.

    `A100` is found with 40 and with 80 GB, `RTX 4090` with 24 GB and not with the 48 GB that it is rebuilt to.
    """
    exact = named_gpu(text)
    called_so = (gpu for gpu in list_gpus() if _may_be_called(gpu, _plain(text)))
    return next((gpu for gpu in (exact, *called_so) if gpu is not None and _is_label(gpu, total)), None)


def _may_be_called(gpu: Gpu, plain: str) -> bool:
    names = (_plain(name) for name in (gpu.name, *gpu.aliases))
    return any(name.startswith(plain) and _FORM.fullmatch(name[len(plain) :]) for name in names)


def _is_label(gpu: Gpu, total: int) -> bool:
    """Whether a maker's label in GB or GiB, or a driver's total between them, is this card's."""
    return gpu.label_gb is not None and gpu.label_gb * GB - MIB < total <= gpu.label_gb * GIB


def agreed_gpu(gpu: str | None, gpu_memory: str | None) -> str | None:
    """What `--gpu` and its synonym for sizes say together. Raises JobError where they are two different sizes."""
    if gpu is None or gpu_memory is None:
        return gpu if gpu_memory is None else _size_alone(gpu_memory)
    card, size = find_gpu(gpu), parse_bytes(_size_alone(gpu_memory))
    if card.memory_bytes != size:
        raise JobError(
            f"--gpu {shorten(gpu)} has {_exact(card.memory_bytes)} and --gpu-memory {shorten(gpu_memory)} is "
            f"{_exact(size)}; give one of them"
        )
    return gpu


def cards_labelled(size: int) -> tuple[Gpu, ...]:
    """The cards that are sold with this size, whether it is meant in GB or in GiB: for 24 * 10^9 those with 24 GB."""
    labels = {size // unit for unit in (GB, GIB) if size % unit == 0}
    cards = (gpu for gpu in list_gpus() if gpu.label_gb in labels and gpu.memory_bytes != size)
    return tuple(sorted(cards, key=lambda gpu: gpu.memory_bytes))


def size_notes(gpu: Gpu | None) -> tuple[str, ...]:
    """`label_notes` on a GPU that was given by its size."""
    return label_notes(gpu.memory_bytes) if gpu is not None and gpu.source == AS_GIVEN else ()


def label_notes(size: int) -> tuple[str, ...]:
    """Where the size is a card's label: what CUDA has of cards with that label, and how to name one."""
    cards = cards_labelled(size)
    if not cards:
        return ()
    sizes = ", ".join(f"{gpu.name} {gpu.memory_bytes / GIB:.2f}" for gpu in cards)
    label = f"{size // GB} GB" if size % GB == 0 else f"{size // GIB} GiB"
    fastest = max(cards, key=lambda gpu: (gpu.bandwidth or 0, gpu.name))
    return (
        f"{label} is a label: of the cards that are sold with {cards[0].label_gb} GB, CUDA sees (in GiB) "
        f"{sizes}. Name the card, like --gpu {_plain(fastest.name)}.",
    )


def _size_alone(text: str) -> str:
    try:
        parse_bytes(text)
    except JobError as error:
        raise JobError(f"--gpu-memory: {error}") from None
    return text


def _exact(size: int) -> str:
    return f"{size // GIB} GiB" if size % GIB == 0 else format_bytes(size)


def _gpu(row: GpuRow) -> Gpu:
    return Gpu(
        name=row["name"],
        memory_bytes=row["memory_mib"] * MIB,
        bandwidth=int(row["bandwidth_gb_s"] * 10**9),
        source=row["source"],
        aliases=tuple(row.get("aliases", ())),
        unified=row.get("unified", False),
        label_gb=row.get("label_gb"),
        sm=row.get("sm"),
        bf16_tflops=row.get("bf16_tflops"),
        bf16_source=row.get("bf16_source"),
        driver_bytes=row["driver_mib"] * MIB if "driver_mib" in row else None,
    )


def _plain(text: str) -> str:
    letters = "".join(char for char in text.lower() if char.isalnum())
    for maker in ("nvidia", "amd", "geforce", "tesla", "instinct"):
        letters = letters.removeprefix(maker)
    return letters


def _size(count: int) -> str:
    return f"{_exact(count)} GPU"
