"""A forum post of 11 July 2025 on a 1T model in IQ2_XS. It stands there twice, word for word."""

from fractions import Fraction

from planner.serving.rules_of_thumb import weight_rule
from worked_examples import real
from worked_examples.records import BINARY_GB, BITS, BYTES, TRUTH, Example, Reason

TITLE = "A forum post on a 1T model in IQ2_XS (11 July 2025)"

_TRILLION = 10**12
_POST_BITS = Fraction(231, 100)
_WHAT = "10^12 parameters x 2.31 bits"


def _bytes(overhead: Fraction = Fraction(0)) -> int:
    return weight_rule(_TRILLION, _POST_BITS, overhead)


def _real(overhead: Fraction = Fraction(0)) -> int:
    return weight_rule(_TRILLION, real.format_bits("iq2_xs"), overhead)


EXAMPLES = (
    Example(
        where="bits per parameter",
        what="IQ2_XS",
        printed="2.31",
        unit=BITS,
        formula=lambda: _POST_BITS,
        exact=Fraction(231, 100),
        real=lambda: real.format_bits("iq2_xs"),
        model="blocks of IQ2_XS",
    ),
    Example(
        where="total bits",
        what=_WHAT,
        printed="2,310,000,000,000",
        unit=BITS,
        formula=lambda: 8 * _bytes(),
        exact=2_310_000_000_000,
        real=lambda: 8 * _real(),
        model="blocks of IQ2_XS",
        why=(Reason.BITS,),
    ),
    Example(
        where="bits to bytes",
        what=_WHAT + " / 8",
        printed="288,750,000,000",
        unit=BYTES,
        formula=_bytes,
        exact=288_750_000_000,
        real=_real,
        model="blocks of IQ2_XS",
        why=(Reason.BITS,),
    ),
    Example(
        where="bytes to GB",
        what="1,024^3 bytes are about 10^9 bytes",
        printed="1,000,000,000",
        unit=BYTES,
        formula=lambda: 1024**3,
        exact=1_073_741_824,
        slip=Reason.UNITS,
    ),
    Example(
        where="bytes to GB",
        what="288.75 x 10^9 / 1,024^3",
        printed="268.9",
        unit=BINARY_GB,
        formula=_bytes,
        exact=288_750_000_000,
        real=_real,
        model="blocks of IQ2_XS",
        why=(Reason.BITS,),
    ),
    Example(
        where="overhead of 20 %",
        what="268.9 GB x 1.20",
        printed="322.7",
        unit=BINARY_GB,
        formula=lambda: _bytes(Fraction(1, 5)),
        exact=346_500_000_000,
        real=lambda: _real(Fraction(1, 5)),
        model="blocks of IQ2_XS, x 1.20",
        why=(Reason.BITS,),
    ),
    Example(
        where="closing words",
        what="in practice closer to 300 to 350 GB: is weights x 1.20 in there",
        printed="yes",
        unit=TRUTH,
        formula=lambda: 300 * 2**30 <= _bytes(Fraction(1, 5)) <= 350 * 2**30,
        exact=True,
        real=lambda: 300 * 2**30 <= _real(Fraction(1, 5)) <= 350 * 2**30,
        model="blocks of IQ2_XS, x 1.20",
    ),
)
