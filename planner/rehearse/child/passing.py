"""Where batches may be passed over: in loops of LLM Compressor's own, that run nothing but code of the libraries."""

import sys
from collections.abc import Iterator
from typing import Any

import torch

from planner.rehearse.child.batches import PATIENCE, CachedBatches, each_batch
from planner.rehearse.child.books import TensorBooks
from planner.rehearse.child.calls import PlayedModule
from planner.rehearse.child.grid import PATIENCE as POINTS
from planner.rehearse.child.grid import GridPoints
from planner.rehearse.child.rounds import Rounds
from planner.rehearse.child.trust import are_modules_of_libraries, is_class_of_libraries, is_of_libraries


class Passing:
    """Decides for each loop whether it may leave out what does nothing new."""

    def __init__(self, books: TensorBooks, *, every_batch: bool) -> None:
        self._books, self._every_batch = books, every_batch
        self._model: Any = None
        self._subgraphs: list[Any] = []
        self._known: dict[int, bool] = {}
        """Of subgraphs, since a pass over one began."""
        self._is_known_model = False
        self.subgraph: int | None = None
        """Number of the one that is run, from 1."""

    def traced(self, model: Any, subgraphs: Any) -> None:
        """These are run from now on."""
        self._model, self._subgraphs = model, list(subgraphs)
        self._is_known_model = all(map(is_class_of_libraries, {type(module) for module in model.modules()}))

    def end(self) -> None:
        """The model is let go of."""
        self._model, self._subgraphs = None, []

    def batches(self, own: Any, cache: Any, names: Any, *, is_plain: bool) -> Iterator[Any]:
        """The pipeline's batches; a mark in the trace for each that is run. `is_plain`: fetched one by one."""
        self._known.clear()
        may = is_plain and hasattr(cache, "batch_intermediates") and self._may()
        if may:
            batches = CachedBatches(self._books, cache, names)
            return each_batch(own, Rounds(self._books, batches, PATIENCE), batches, cache)
        return self._each(own)

    def points(self, points: GridPoints) -> Rounds | None:
        """The rounds of a search; None where all of its points are run."""
        return Rounds(self._books, points, POINTS) if self._may() else None

    def called(self, module: Any) -> Any:
        """What a search calls for each of its samples: the module, or one that does the same to the card."""
        return PlayedModule(module, self._books) if self._may() else module

    def _each(self, own: Any) -> Iterator[Any]:
        for item in own:
            self._books.batch()
            yield item

    def _may(self) -> bool:
        """Everything that would be run is known, and nobody looks on."""
        if self._every_batch or not self._is_known_model or _is_watched() or not _are_known_modifiers():
            return False
        number = (self.subgraph or 0) - 1
        if number not in self._known:
            self._known[number] = self._is_known(number)
        return self._known[number]

    def _is_known(self, number: int) -> bool:
        """What the subgraph runs is of libraries."""
        if not 0 <= number < len(self._subgraphs):
            return False
        subgraph = self._subgraphs[number]
        calls = (node.target for node in subgraph.graph.nodes if node.op == "call_function")
        return all(map(is_of_libraries, calls)) and are_modules_of_libraries(subgraph.submodules(self._model))


def passed() -> tuple[int, int]:
    """How many batches were passed over, and how many calls were played."""
    return Rounds.passed, PlayedModule.played


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
    session = getattr(sys.modules.get("llmcompressor.core"), "active_session", None)
    try:
        modifiers = session().lifecycle.recipe.modifiers  # type: ignore[misc]
    except (AttributeError, TypeError):
        return False
    return all(is_class_of_libraries(type(each)) for each in modifiers)
