"""A recipe's patterns are tried before the child starts: Python's `re` may never come back from one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from planner.errors import RehearseError
from planner.rehearse import patterns


def recipe(*ignored: str) -> dict[str, Any]:
    return {"stage": {"modifiers": {"GPTQModifier": {"targets": ["Linear"], "ignore": list(ignored)}}}}


def toy() -> torch.nn.Module:
    model = torch.nn.Sequential()
    model.add_module("a_linear_with_a_long_name_" * 3, torch.nn.Linear(1, 1))
    config: Any = SimpleNamespace()
    model.config = config
    return model


def test_a_pattern_from_which_re_never_comes_back_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    with pytest.raises(RehearseError, match=r"^re:\(\(\[a-z._0-9\]\+\)\+\)\+!\$ takes over 0.5 s .* 2 names"):
        patterns.check_patterns(recipe("lm_head", "re:(([a-z._0-9]+)+)+!$"), toy)


def test_one_that_only_looks_so_is_let_through() -> None:
    patterns.check_patterns(recipe(r"re:.*(linear|head)+$"), toy)


def test_for_usual_patterns_no_model_is_built() -> None:
    patterns.check_patterns(recipe("lm_head", "re:.*lm_head"), lambda: pytest.fail("built"))
