"""Every worked example of the guides: what it printed, what its formula gives, what the model itself takes.

The examples lie with the page that shows them, docs/worked_examples; this holds them to the code.
"""

import sys
from fractions import Fraction
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import formulas  # noqa: E402  (they are in DOCS)
from worked_examples import DOCUMENTS  # noqa: E402  (they are in DOCS)
from worked_examples.records import (  # noqa: E402  (they are in DOCS)
    BINARY_GB,
    PERCENT,
    TIMES,
    Example,
    Reason,
    agrees,
    half_a_digit,
    numbers,
)

EXAMPLES = [example for examples in DOCUMENTS.values() for example in examples]
NAMES = [f"{example.where}: {example.what}" for example in EXAMPLES]
each = pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)


def number(printed: str) -> Example:
    return Example(where="", what="", printed=printed, unit=TIMES)


@each
def test_a_formula_gives_what_was_worked_out_by_hand(example: Example) -> None:
    if example.formula is None:
        assert example.exact is None
        assert example.slip is None
    else:
        assert example.formula() == example.exact


@each
def test_a_printed_number_is_what_its_formula_gives_or_a_reason_says_why_not(example: Example) -> None:
    if example.exact is not None:
        assert agrees(example, example.exact) == (example.slip is None)


@each
def test_a_printed_number_is_what_the_model_takes_or_reasons_say_why_not(example: Example) -> None:
    if example.real is None:
        assert not example.why
        assert not example.model
    else:
        assert example.model
        assert agrees(example, example.real()) == (not example.why)


@each
def test_an_example_has_a_formula_or_a_model(example: Example) -> None:
    assert example.formula is not None or example.real is not None


def test_printed_parts_sum_to_the_printed_total() -> None:
    totals = [example for example in EXAMPLES if example.parts]
    assert len(totals) == 9
    for example in totals:
        assert sum(map(Fraction, example.parts)) == numbers(example.printed)[0], example.what


def test_every_reason_is_used() -> None:
    used = {reason for example in EXAMPLES for reason in (*example.why, example.slip) if reason}
    assert used == set(Reason)


def test_the_five_documents_are_all_there() -> None:
    assert len(DOCUMENTS) == 5
    assert all(DOCUMENTS.values())


@pytest.mark.parametrize(
    ("printed", "good", "bad"),
    [
        ("268.9", "268.92", "269.0"),
        ("~32", "31.5", "31.4"),
        ("~1", "0.95", "0.5"),  # a single digit must not hide a factor
        ("2-4", "4", "4.1"),
        ("10+", "11", "9.9"),
        ("<=8", "6", "8.1"),
        ("1,048,576", "1048576", "1048577"),
    ],
)
def test_a_number_agrees_within_what_was_printed(printed: str, good: str, bad: str) -> None:
    assert agrees(number(printed), Fraction(good))
    assert not agrees(number(printed), Fraction(bad))


def test_a_claim_agrees_with_its_truth_alone() -> None:
    assert agrees(number("yes"), True)
    assert not agrees(number("no"), True)
    assert not agrees(number("yes"), 1 == 2)


def test_units_scale_what_is_compared() -> None:
    assert agrees(Example(where="", what="", printed="~75", unit=PERCENT), Fraction(3, 4))
    assert agrees(Example(where="", what="", printed="1", unit=BINARY_GB), 2**30)
    assert half_a_digit("2.55") == Fraction(1, 200)


def test_the_page_of_formulas_is_up_to_date() -> None:
    assert formulas.PAGE.read_text(encoding="utf-8") == formulas.page(), "run `python docs/formulas.py`"
