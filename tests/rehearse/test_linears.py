"""Quantized Linears' calls are played while text is generated, but for those within a call that is recorded whole."""

from typing import Any

import pytest
import torch

from planner.rehearse.child import linears, passing
from planner.rehearse.child.calls import PlayedModule
from planner.rehearse.child.passing import Passing


class Played:
    """Stands in, and runs the module."""

    def __init__(self, _module: Any, _books: Any, run: Any) -> None:
        self.run, self.calls = run, 0

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.run(hidden)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Passing:
    """All code counts as a library's."""
    monkeypatch.setattr(passing, "are_modules_of_libraries", lambda _modules: True)
    monkeypatch.setattr(passing, "are_shared_files_of_libraries", lambda: True)
    monkeypatch.setattr(passing, "PlayedModule", Played)
    books: Any = None
    made = Passing(books, every_batch=False)
    linears.install(made)
    return made


@pytest.fixture
def model() -> torch.nn.Sequential:
    """A Linear that is quantized, as compressed-tensors marks it, and one that is not."""
    made = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    made[0].quantization_scheme = object()
    return made


def calls(installed: Passing) -> list[int]:
    assert installed.played is not None
    return [each.calls for each in installed.played.values()]


def test_linears_that_are_quantized_are_played_while_text_is_generated(
    installed: Passing, model: torch.nn.Sequential
) -> None:
    hidden = torch.ones(1, 3)
    expected = model(hidden)
    with installed.generating(model):
        assert torch.equal(model(hidden), expected)
        assert torch.equal(model(hidden), expected)
        assert calls(installed) == [2]
        assert model[0] in (installed.played or {})
    assert installed.played is None
    assert torch.equal(model(hidden), expected)
    assert "__call__" not in vars(torch.nn.Linear)


def test_linears_within_a_call_that_is_recorded_are_run(
    installed: Passing, model: torch.nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed.generating(model):
        monkeypatch.setattr(PlayedModule, "recorded", 1)
        model(torch.ones(1, 3))
        assert calls(installed) == []


def test_no_linear_is_played_where_every_batch_is_run(installed: Passing, model: torch.nn.Sequential) -> None:
    installed._every_batch = True
    with installed.generating(model):
        model(torch.ones(1, 3))
        assert installed.played is None
