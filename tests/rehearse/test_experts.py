"""Experts' calls are played while text is generated, and are nobody else's business."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.fx import GraphModule, Tracer

from planner.rehearse.child import experts, passing
from planner.rehearse.child.passing import Passing


class ExpertMLPWithGate(torch.nn.Module):
    """As LLM Compressor's: what its `forward` runs is an operation each, where somebody traces into it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * 2 + 1


class LinearExperts2D(torch.nn.ModuleList):
    """Runs all of them."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for expert in self:
            hidden = expert(hidden)
        return hidden


class Books:
    """Counts the rounds that it is told of."""

    def __init__(self) -> None:
        self.rounds = self.over = 0

    def round(self) -> None:
        self.rounds += 1

    def rounds_over(self) -> None:
        self.over += 1


class Played:
    """Runs the first call alone."""

    def __init__(self, _module: Any, _books: Books, run: Any) -> None:
        self.run, self.calls = run, 0

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.run(hidden) if self.calls == 1 else torch.zeros(1)


class Watching(Tracer):
    """Looks into all modules but experts."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ExpertMLPWithGate)


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def installed(books: Any, monkeypatch: pytest.MonkeyPatch) -> Passing:
    """In a module that has experts of both classes above; their code counts as a library's."""
    monkeypatch.setattr(passing, "are_modules_of_libraries", lambda _modules: True)
    monkeypatch.setattr(passing, "are_shared_files_of_libraries", lambda: True)
    monkeypatch.setattr(passing, "PlayedModule", lambda _module, _books, run: run)
    made = Passing(books, every_batch=False)
    module = SimpleNamespace(ExpertMLPWithGate=ExpertMLPWithGate, LinearExperts2D=LinearExperts2D)
    experts.install(books, made, module)
    return made


def test_a_tracer_that_does_not_look_into_experts_finds_their_calls(installed: Passing) -> None:
    model = LinearExperts2D([ExpertMLPWithGate(), ExpertMLPWithGate()])
    graph = GraphModule(model, Watching().trace(model)).graph
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["0", "1"]
    assert not [node for node in graph.nodes if node.op == "call_function"]
    assert installed.calls.keys() == {ExpertMLPWithGate, LinearExperts2D}


def test_experts_are_played_while_text_is_generated_and_then_called_as_before(installed: Passing, books: Books) -> None:
    model, one = LinearExperts2D([ExpertMLPWithGate(), ExpertMLPWithGate()]), torch.ones(1)
    with installed.generating(model):
        assert model(one) == 7
    assert (books.rounds, books.over) == (2, 1)
    assert model(one) == 7
    assert (books.rounds, books.over) == (2, 1)
    assert not any("__call__" in vars(owner) for owner in installed.calls)


def test_the_call_of_all_experts_is_played_as_one_and_ends_the_rounds(
    installed: Passing, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "PlayedModule", Played)
    model, one = LinearExperts2D([ExpertMLPWithGate(), ExpertMLPWithGate()]), torch.ones(1)
    with installed.generating(model):
        assert installed.played is not None
        assert [model(one).item() for _ in range(3)] == [7, 0, 0]
        assert {type(each) for each in installed.played} == {LinearExperts2D, ExpertMLPWithGate}
        assert len(installed.played) == 3
    assert (books.rounds, books.over) == (2, 3)  # those of what is played are in its recording


def test_a_call_of_all_experts_that_fails_ends_the_rounds(installed: Passing, books: Books) -> None:
    model = LinearExperts2D([ExpertMLPWithGate()])
    with installed.generating(model), pytest.raises(TypeError):
        model("text")
    assert (books.rounds, books.over) == (1, 1)


@pytest.fixture
def batches(installed: Passing, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Five, in a loop that may pass some over."""
    monkeypatch.setattr(Passing, "_may", lambda _passing: True)
    monkeypatch.setattr(passing, "each_batch", lambda own, *_rest: own)
    monkeypatch.setattr(passing, "PlayedModule", Played)
    cache = SimpleNamespace(batch_intermediates=[])
    return lambda hooks: installed.batches(iter(range(5)), cache, is_plain=True, hooks=hooks)


def test_the_call_of_all_experts_is_played_without_rounds_in_a_loop_without_hooks(
    installed: Passing, batches: Any, books: Books
) -> None:
    model, one = LinearExperts2D([ExpertMLPWithGate(), ExpertMLPWithGate()]), torch.ones(1)
    assert [model(one).item() for _ in batches(hooks=False)] == [7, 0, 0, 0, 0]
    assert (books.rounds, books.over) == (0, 0)
    assert installed.played is None
    assert model(one).item() == 7
    assert "__call__" not in vars(LinearExperts2D)


def test_all_experts_are_run_in_a_loop_with_hooks(installed: Passing, batches: Any) -> None:
    model, one = LinearExperts2D([ExpertMLPWithGate()]), torch.ones(1)
    assert [model(one).item() for _ in batches(hooks=True)] == [3] * 5
    assert installed.played is None


def test_a_loop_that_stops_in_between_is_over_when_the_model_is_let_go_of(installed: Passing, batches: Any) -> None:
    loop = batches(hooks=False)
    next(loop)
    assert "__call__" in vars(LinearExperts2D)
    installed.end()
    assert "__call__" not in vars(LinearExperts2D)
    assert installed.played is None
    assert list(loop) == []


def test_a_release_without_a_class_of_all_experts_has_those_of_experts_played(installed: Passing, books: Any) -> None:
    made = Passing(books, every_batch=False)
    experts.install(books, made, SimpleNamespace(ExpertMLPWithGate=ExpertMLPWithGate))
    assert made.calls.keys() == {ExpertMLPWithGate}
    experts.install(books, made, SimpleNamespace())
    assert made.calls.keys() == {ExpertMLPWithGate}


def test_a_call_of_the_class_s_own_comes_back_after_a_failure_too(
    installed: Passing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(_expert: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    monkeypatch.setattr(ExpertMLPWithGate, "__call__", own, raising=False)
    with pytest.raises(ValueError, match="no luck"), installed.generating(LinearExperts2D()):
        assert vars(ExpertMLPWithGate)["__call__"] is not own
        raise ValueError("no luck")
    assert vars(ExpertMLPWithGate)["__call__"] is own
    assert "__call__" not in vars(LinearExperts2D)


def test_nothing_is_played_where_every_batch_is_run(installed: Passing, books: Books) -> None:
    installed._every_batch = True
    with installed.generating(LinearExperts2D([ExpertMLPWithGate()])):
        assert "__call__" not in vars(ExpertMLPWithGate)
    assert books.rounds == 0


def test_a_module_of_another_model_is_run_as_it_is_while_text_is_generated(installed: Passing, books: Books) -> None:
    model, other, one = LinearExperts2D([ExpertMLPWithGate()]), LinearExperts2D([ExpertMLPWithGate()]), torch.ones(1)
    with installed.generating(model):
        assert other(one) == 3
        assert books.rounds == 0
        assert model(one) == 3
    assert books.rounds == 1


def test_calls_are_played_on_after_another_model_generated_meanwhile(
    installed: Passing, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, own, one = LinearExperts2D([ExpertMLPWithGate()]), LinearExperts2D([ExpertMLPWithGate()]), torch.ones(1)
    monkeypatch.setattr(passing, "are_modules_of_libraries", lambda modules: own not in list(modules))
    with installed.generating(model):
        with installed.generating(own):
            assert own(one) == model(one) == 3
            assert books.rounds == 0
        assert model(one) == 3
        assert books.rounds == 1
