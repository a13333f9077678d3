"""The Kaitchup, 27 September 2023: Llama 2 70B on cards of 24 GB."""

from fractions import Fraction

from planner.serving.rules_of_thumb import weight_rule
from worked_examples import real
from worked_examples.records import BYTES_EACH, GB, TRUTH, Example, Reason

TITLE = "The Kaitchup, 27 September 2023 (Llama 2 70B, ExLlamaV2)"

_PARAMETERS = 70 * 10**9
_MODEL = "llama-2-70b"
_CARD = "RTX 4090"
_CARD_BYTES = 24 * 2**30  # cards sold as 24 GB hold 24 GiB
_CONTEXT = 2048


def _rule_fits(bits: Fraction | int, cards: int = 1) -> bool:
    return weight_rule(_PARAMETERS, bits) <= cards * _CARD_BYTES


EXAMPLES = (
    Example(
        where="first lines",
        what="one fp16 parameter",
        printed="2",
        unit=BYTES_EACH,
        formula=lambda: Fraction(16, 8),
        exact=2,
        real=lambda: real.format_bits("fp16") / 8,
        model="fp16",
    ),
    Example(
        where="first lines",
        what="70B x 2 bytes",
        printed="140",
        unit=GB,
        formula=lambda: weight_rule(_PARAMETERS, 16),
        exact=140_000_000_000,
        real=lambda: real.weights(_MODEL, "fp16"),
        model=_MODEL,
        why=(Reason.PARAMETERS,),
    ),
    Example(
        where="4-bit requirements",
        what="70B x 0.5 bytes",
        printed="~35",
        unit=GB,
        formula=lambda: weight_rule(_PARAMETERS, 4),
        exact=35_000_000_000,
        real=lambda: real.weights(_MODEL, "exl2:4.0"),
        model=f"{_MODEL}, exl2:4.0",
    ),
    Example(
        where="4-bit requirements",
        what="4 bits fit one card of 24 GB",
        printed="no",
        unit=TRUTH,
        formula=lambda: _rule_fits(4),
        exact=False,
        real=lambda: real.fits(_MODEL, "exl2:4.0", _CARD, _CONTEXT),
        model=f"{_MODEL}, exl2:4.0, {_CONTEXT:,} tokens",
    ),
    Example(
        where="4-bit requirements",
        what="4 bits fit two cards of 24 GB",
        printed="yes",
        unit=TRUTH,
        formula=lambda: _rule_fits(4, cards=2),
        exact=True,
        real=lambda: real.fits(_MODEL, "exl2:4.0", _CARD, _CONTEXT, gpus=2),
        model=f"{_MODEL}, exl2:4.0, {_CONTEXT:,} tokens",
    ),
    Example(
        where="2-bit",
        what="2 bits fit one card of 24 GB (70B x 0.25 bytes = 17.5 GB); the least EXL2 of this model has 2.22",
        printed="yes",
        unit=TRUTH,
        formula=lambda: _rule_fits(2),
        exact=True,
        real=lambda: real.fits(_MODEL, "exl2:2.22", _CARD, _CONTEXT),
        model=f"{_MODEL}, exl2:2.22, {_CONTEXT:,} tokens",
    ),
    Example(
        where="mixed precision",
        what="an average below 3 bits fits 24 GB: 2.55 bits, which is published to fit with 2,048 tokens",
        printed="yes",
        unit=TRUTH,
        formula=lambda: _rule_fits(Fraction(255, 100)),
        exact=True,
        real=lambda: real.fits(_MODEL, "exl2:2.55", _CARD, _CONTEXT),
        model=f"{_MODEL}, exl2:2.55, {_CONTEXT:,} tokens",
    ),
    Example(
        where="mixed precision",
        what="an average of 3 bits fits 24 GB",
        printed="no",
        unit=TRUTH,
        formula=lambda: _rule_fits(3),
        exact=False,
        real=lambda: real.fits(_MODEL, "exl2:3.0", _CARD, _CONTEXT),
        model=f"{_MODEL}, exl2:3.0, {_CONTEXT:,} tokens",
    ),
)
