"""Where batches may be passed over: in loops of LLM Compressor's own, that run nothing but code of the libraries."""

import functools
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from planner.rehearse.child.batches import PATIENCE, CachedBatches, each_batch
from planner.rehearse.child.books import TensorBooks
from planner.rehearse.child.calls import PlayedModule
from planner.rehearse.child.grid import PATIENCE as POINTS
from planner.rehearse.child.grid import GridPoints
from planner.rehearse.child.rounds import LoopRounds
from planner.rehearse.child.trust import (
    are_modifiers_of_libraries,
    are_modules_of_libraries,
    are_shared_files_of_libraries,
    is_class_of_libraries,
    is_of_libraries,
)


class Passing:
    """Decides for each loop whether it may leave out what does nothing new."""

    def __init__(self, books: TensorBooks, *, every_batch: bool) -> None:
        self._books, self._every_batch = books, every_batch
        self._model: Any = None
        self._subgraphs: list[Any] = []
        self._known: dict[int, bool] = {}
        """Of subgraphs, since a pass over one began."""
        self._is_known_model = self._is_plain = False
        self.subgraph: int | None = None
        """Number of the one that is run, from 1."""
        self.played: dict[Any, PlayedModule] | None = None
        """Modules whose calls are, while text is generated or batches are run without hooks, and all is known; else
        None."""
        self._own: frozenset[int] | None = None
        """Only these may be, by `id`; None: all that are called."""
        self.calls: dict[Any, Any] = {}
        """Of classes, what stands in the place of their calls while text is generated."""
        self.calls_without_hooks: dict[Any, Any] = {}
        """And while batches are run without hooks."""
        self._loop: Generator[Any, None, None] | None = None
        """Such batches."""

    def traced(self, model: Any, subgraphs: Any) -> None:
        """These are run from now on."""
        self._model, self._subgraphs = model, list(subgraphs)
        self._is_known_model = all(map(is_class_of_libraries, {type(module) for module in model.modules()}))

    def end(self) -> None:
        """The model is let go of, and a loop that did not come to its end."""
        self._model, self._subgraphs = None, []
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    @contextmanager
    def generating(self, model: Any) -> Iterator[None]:
        """The model generates text: nothing but the cache of keys and values remembers."""
        before = self.played, self._own
        self.played, self._own = None, frozenset()
        if not self._every_batch and not _is_watched() and hasattr(model, "modules"):
            modules = list(model.modules())
            if are_shared_files_of_libraries() and are_modules_of_libraries(modules):
                self.played, self._own = {}, frozenset(map(id, modules))
        try:
            with _calls(self.calls if self.played is not None else {}):
                yield
        finally:
            self.played, self._own = before

    def may_play(self, module: Any) -> bool:
        """Calls are played now, and this is a module of what was looked at: others may be called meanwhile, too."""
        return self.played is not None and (self._own is None or id(module) in self._own)

    def stand_in(self, module: Any, own: Any) -> PlayedModule:
        """What plays this module's calls; `own` runs them."""
        assert self.played is not None
        if module not in self.played:
            self.played[module] = PlayedModule(module, self._books, functools.partial(own, module))
        return self.played[module]

    def batches(self, own: Any, cache: Any, *, is_plain: bool, hooks: bool) -> Iterator[Any]:
        """The pipeline's batches; a mark in the trace for each that is run. `is_plain`: by the library's own loop, and
        fetched one by one; `hooks`: modifiers have theirs run."""
        self._known.clear()
        self._is_plain = is_plain
        if hasattr(cache, "batch_intermediates") and self._may():
            batches = CachedBatches(self._books, cache)
            rounds = LoopRounds(self._books, batches, PATIENCE)
            loop = each_batch(own, rounds, batches, cache)
            if hooks:
                return loop
            self._loop = self._without_hooks(loop)
            return self._loop
        return self._each(own)

    def _without_hooks(self, loop: Iterator[Any]) -> Generator[Any, None, None]:
        """The loop, whose modules keep nothing of a batch."""
        self.played = {}
        try:
            with _calls(self.calls_without_hooks):
                yield from loop
        finally:
            self.played = None

    def points(self, points: GridPoints) -> LoopRounds | None:
        """The rounds of a search; None where all of its points are run."""
        return LoopRounds(self._books, points, POINTS) if self._may() else None

    def called(self, module: Any) -> Any:
        """What a search calls for each of its samples: the module, or one that does the same to the card."""
        return PlayedModule(module, self._books) if self._may() else module

    def _each(self, own: Any) -> Iterator[Any]:
        for item in own:
            self._books.batch()
            yield item

    def _may(self) -> bool:
        """Everything that would be run is known, and nobody looks on."""
        is_possible = self._is_plain and self._is_known_model and not self._every_batch
        if not is_possible or _is_watched():
            return False
        number = (self.subgraph or 0) - 1
        if number not in self._known:
            self._known[number] = self._is_known(number)
        return self._known[number]

    def _is_known(self, number: int) -> bool:
        """What the subgraph and the recipe's modifiers run is of libraries."""
        if not 0 <= number < len(self._subgraphs) or not _are_known_modifiers() or not are_shared_files_of_libraries():
            return False
        subgraph = self._subgraphs[number]
        calls = (node.target for node in subgraph.graph.nodes if node.op == "call_function")
        return all(map(is_of_libraries, calls)) and are_modules_of_libraries(subgraph.submodules(self._model))


@contextmanager
def _calls(calls: Mapping[Any, Any]) -> Iterator[None]:
    """Instances of these classes are called so, and then again as they were."""
    before = {owner: vars(owner).get("__call__") for owner in calls}
    for owner, call in calls.items():
        owner.__call__ = call
    try:
        yield
    finally:
        for owner, own in before.items():
            if own is None:
                del owner.__call__
            else:
                owner.__call__ = own


def passed() -> tuple[int, int]:
    """How many batches were passed over, and how many calls were played."""
    return LoopRounds.passed, PlayedModule.played


def _is_watched() -> bool:
    """Somebody sees every operator, or every module that is called, or has an attention of his own."""
    modules: Any = torch.nn.modules.module
    hooks = (modules._global_forward_hooks, modules._global_forward_pre_hooks)
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack() or any(hooks):
        return True
    functions: Any = getattr(sys.modules.get("transformers.modeling_utils"), "ALL_ATTENTION_FUNCTIONS", {})
    return not all(is_of_libraries(functions[name]) for name in functions)


def _are_known_modifiers() -> bool:
    """No modifier of the recipe is the user's own, and none was changed."""
    session: Any = getattr(sys.modules.get("llmcompressor.core"), "active_session", None)
    try:
        modifiers = session().lifecycle.recipe.modifiers
    except (AttributeError, TypeError):
        return False
    return are_modifiers_of_libraries(modifiers)
