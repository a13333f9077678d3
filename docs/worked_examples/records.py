"""One worked example of a guide as data: what it printed, what its formula gives, what the model itself takes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

Value = int | Fraction | bool


class Reason(Enum):
    """Why two numbers for one thing are not the same. Closed: an example that needs another reason adds it here."""

    UNITS = "decimal against binary: 10^9 and 2^30 bytes are both called GB (7.4 % apart)"
    PARAMETERS = "rounded parameters: 70B are 68.98, 8B are 8.03, the VL model's 7B are 8.29 x 10^9"
    BITS = "rounded bits: 2.31 stands for a block of 74 bytes per 256 weights, 2.3125 bits"
    CUT = "digits cut off, where rounding would give the next number"
    COARSE = "rounded further than the number's digits say"
    SLIP = "arithmetic slip: the formula with these inputs gives another number"
    PREFIX = "unit slip: a prefix of 1,000, or bytes and GB mixed up on the way"
    BATCH = "the batch was forgotten: the number is that of one sequence"
    PARTS = "the sum is right, parts of it are not"
    SHARE = "a remaining share printed among reductions"
    MULTI_HEAD = "multi-head formula on a grouped-query model: key-value heads are shared by 4 to 8 query heads"
    NAME = "the digit in a K-quant's name is not its bits: scales and minima of its blocks are left out"
    MIXTURE = "a file mixes block types: some matrices, embedding and head get more bits"
    SIXTEEN = "embedding, head and norms stay in 16 bits, and blocks have scales"
    OTHER_MODEL = "the number belongs to a 7B model, not to this one"
    NOT_ALIVE = "the rule adds up layers that are never alive together"
    SPREAD = "the whole model divided by its layers, embedding and head spread over them"
    WEIGHTS_ALONE = "the rule counts weights alone: activations, Hessians and workspaces set the peak"
    ONE_MODULE = "needs no data: one Linear's weights at a time, and the observers' ranges of those that are done"
    COPIES = "the CPU also keeps every sample's activations, and a mixture's experts twice while they load"
    HESSIAN = "a Hessian is inputs x inputs in fp32, whatever the weight's rows and type"
    STATES = "moments and master weights are 4 bytes each, whatever the weights' type; factored moments are rows"
    BUFFERS = "buffers belong to a bucket or one layer, not to the whole model"
    DEPENDS = "true of some models or formats only"
    OVERHEAD = "a context and graphs do not grow with the weights"
    LATENT = "latent attention keeps one compressed row per token and layer, no heads"
    CARD = "the cards' own data sheets say otherwise (memory bandwidth sets the ceiling of decoding)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit as it is printed, and its size in bytes, bits, or whatever the number counts."""

    name: str
    size: Fraction
    memory: bool = False


BYTES = Unit(name="bytes", size=Fraction(1), memory=True)
GB = Unit(name="GB", size=Fraction(10**9), memory=True)
"""Printed as GB, meant as 10^9 bytes."""
BINARY_GB = Unit(name="GB", size=Fraction(2**30), memory=True)
"""Printed as GB, defined by the document as 2^30 bytes."""
GBIT = Unit(name="Gb", size=Fraction(10**9), memory=True)
"""Printed as Gb, which is a gigabit; 10^9 bytes are meant."""
BITS = Unit(name="bits", size=Fraction(1))
BYTES_EACH = Unit(name="bytes each", size=Fraction(1))
PERCENT = Unit(name="%", size=Fraction(1, 100))
TIMES = Unit(name="x", size=Fraction(1))
COUNT = Unit(name="", size=Fraction(1))
BILLION = Unit(name="billion", size=Fraction(10**9))
BANDWIDTH = Unit(name="GB/s", size=Fraction(10**9))
TRUTH = Unit(name="", size=Fraction(1))

_NUMBER = re.compile(r"[\d,]+(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One number or claim of a document."""

    where: str
    """Section, in the document's own words."""
    what: str
    """What is computed, with its inputs."""
    printed: str
    """As printed: `268.9`, `~32`, `2-4`, `10+`, `<=8`, `yes`, `no`."""
    unit: Unit
    formula: Callable[[], Value] | None = None
    """The document's own formula with its own inputs; None for a claim without one."""
    exact: Value | None = None
    """What that gives, worked out by hand, in bytes or whatever the unit counts."""
    slip: Reason | None = None
    """Why the formula does not give what was printed; None where it does."""
    real: Callable[[], Value] | None = None
    """The same from the model's own tensors, cache layers or trace; None where the example names no model."""
    why: tuple[Reason, ...] = ()
    """Why that is not what was printed; empty where it is."""
    parts: tuple[str, ...] = ()
    """Printed numbers whose sum is the printed one."""
    model: str = ""
    """What `real` was computed of."""


def numbers(printed: str) -> tuple[Fraction, ...]:
    """The numbers in a printed text: one, or the two ends of a range."""
    return tuple(Fraction(found.replace(",", "")) for found in _NUMBER.findall(printed))


def half_a_digit(printed: str) -> Fraction:
    """Half of the last printed place: 1/20 for `268.9`, 1/2 for `32`."""
    match = _NUMBER.search(printed)
    if match is None:
        raise ValueError(f"{printed!r} holds no number")
    return Fraction(1, 2 * 10 ** len(match[0].partition(".")[2]))


def agrees(example: Example, value: Value) -> bool:
    """Whether a value is what was printed, within the precision that was printed, and within a tenth.

    The tenth keeps a single digit from hiding a factor: `~1` is not 0.5.
    """
    printed = example.printed
    if printed in ("yes", "no"):
        return value is (printed == "yes")
    found, measured = numbers(printed), Fraction(value) / example.unit.size
    if len(found) == 2:
        return found[0] <= measured <= found[1]
    if printed.endswith("+"):
        return measured >= found[0]
    if printed.startswith("<="):
        return measured <= found[0]
    return abs(measured - found[0]) <= min(half_a_digit(printed), found[0] / 10)
