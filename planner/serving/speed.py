"""The ceiling that memory bandwidth sets to decoding: bytes that one step has to read, over bytes per second."""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from planner.formats.served_model import ServedModel
from planner.models.kinds import BESIDE_TEXT
from planner.serving.schema import Speed
from planner.serving.split import Held

# Two channels of DDR5-5600 (JEDEC JESD79-5), 8 bytes each: a desktop of today. Servers have 8 to 12 channels.
CPU_BANDWIDTH = 2 * 8 * 5_600_000_000

# Tokens per second of one user at which decoding reads well.
_READABLE, _SMOOTH = 10, 20


def bytes_read(weights: Iterable[Held], model: ServedModel, sequences: int) -> int:
    """Bytes of weights that one device reads in a step that makes one token of each sequence.

    Every matrix is read once, whatever the batch. Of routed experts only those that some token chose: of E experts,
    with k chosen per token as if by chance, `1 - (1 - k/E) ** sequences` of them. A token embedding gives one row
    per token; vision towers are not read.
    """
    share = experts_read(model, sequences)
    return sum(_read(held, share, sequences) for held in weights)


def experts_read(model: ServedModel, sequences: int) -> Fraction:
    """The expected part of the experts that a step of so many tokens reads; 1 for a model without experts."""
    if not model.experts:
        return Fraction(1)
    idle = 1 - min(1.0, model.experts_per_token / model.experts)
    return Fraction(1 - idle**sequences)


def speed(
    gpu_bytes: Sequence[int],
    cpu_bytes: int,
    sequences: int,
    *,
    bandwidth: int | None,
    cpu_bandwidth: int,
    together: bool,
) -> Speed | None:
    """The ceiling, from the bytes that each GPU and the CPU read in one step.

    `together`: the GPUs work at the same time (tensor parallelism), and the slowest sets the pace; else one after the
    other (split by layer). The CPU always has its own turn. None where a bandwidth is missing.
    """
    on_gpu = max(gpu_bytes) if together else sum(gpu_bytes)
    if on_gpu and bandwidth is None:
        return None
    seconds = (on_gpu / bandwidth if bandwidth else 0.0) + cpu_bytes / cpu_bandwidth
    if not seconds:
        return None
    return Speed(
        bytes_per_step=sum(gpu_bytes),
        cpu_bytes_per_step=cpu_bytes,
        cpu_bandwidth=cpu_bandwidth if cpu_bytes else None,
        seconds_per_step=seconds,
        tokens_per_second_per_user=1 / seconds,
        tokens_per_second=sequences / seconds,
        word=word_for(1 / seconds),
    )


def word_for(tokens_per_second: float) -> str:
    """How it feels to one reader."""
    if tokens_per_second < _READABLE:
        return "too slow for a conversation"
    return "readable" if tokens_per_second <= _SMOOTH else "smooth"


def _read(held: Held, experts: Fraction, sequences: int) -> int:
    weight = held.stored.weight
    if weight.unit in BESIDE_TEXT:
        return 0
    if held.rows:
        return min(held.bytes, sequences * -(-held.bytes // max(1, weight.shape[0])))
    return int(held.bytes * experts) if weight.is_expert else held.bytes
