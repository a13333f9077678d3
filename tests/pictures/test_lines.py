"""The table of upstream functions, without the library; tests/test_upstream.py looks each of them up in it."""

import re
from pathlib import Path

from planner.compress.modifiers import MODIFIERS
from planner.compress.parts import part_number
from planner.upstream_lines import _OF_MODIFIER, line_of, lines
from tests.test_upstream import CITATION

CORE = "\n".join(path.read_text(encoding="utf-8") for path in Path("planner/compress").rglob("*.py"))


def test_every_role_of_the_table_is_one_that_the_simulation_gives() -> None:
    for _, role, _ in lines():
        words = role.split(" ")
        halves = [(" ".join(words[:n]), " ".join(words[n:])) for n in range(len(words))]
        assert any(_is_written(front) and _is_written(back) for front, back in halves), role


def _is_written(role: str) -> bool:
    """Some text of the simulation is this role, or what a frame's owner adds to it."""
    return not role or bool(re.search(rf'["}}] ?{re.escape(role)}"', CORE))


def test_every_entry_is_a_citation_that_the_test_with_the_library_sees() -> None:
    assert not [line.where for _, _, line in lines() if not CITATION.search(line.where)]


def test_every_modifier_of_the_table_is_one_and_every_kind_has_a_part() -> None:
    for modifier, kind in _OF_MODIFIER:
        assert modifier in MODIFIERS
        assert part_number(kind, "gpu") != part_number("nothing of the kind", "gpu")


def test_a_role_that_is_not_noted_has_no_line() -> None:
    assert line_of("GPTQModifier", "compress", "something new") is None
    assert line_of("GPTQModifier", "forward", "softmax") is None
    assert line_of(None, "hessian", "Hessian") is None


def test_of_several_modifiers_the_one_that_knows_the_role_answers() -> None:
    found = line_of("SmoothQuantModifier+GPTQModifier", "hessian", "Hessian")
    assert found is not None
    assert found.where == "gptq/helpers.py make_empty_hessian"
