"""A module that is called again and again with inputs of the same shapes: calls that would ask the card for the same
are played, tensor by tensor, to the real allocator, and their operators are not run.

Unlike a batch that is passed over, a call that is played may meet any layout of the card, and what it returns may be
kept: its results are taken where the call would take them. What runs the calls may give back nothing within one.
Calls lie within others: those of experts in that of their mixture.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch

from planner.rehearse.child.books import RecordedCall, TensorBooks
from planner.rehearse.child.cached import Doubt, shape

EQUAL = 3
"""Calls in a row that did the same."""
CARD = torch.device("cuda", 0)
EMPTY = -1
"""Of a tensor without rows: it takes nothing."""


class CallResult(NamedTuple):
    """A tensor that a call returns: the how many-th of those that outlive it, or EMPTY, and its form."""

    number: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    numbers: int
    """A hash of them; 0 where they are not known."""


class Did(NamedTuple):
    """A call that was run."""

    inputs: Hashable
    card: int
    cpu: int
    rise: int
    results: tuple[CallResult | None, ...]
    is_tuple: bool
    """It returns several, some of which may be None."""
    by_birth: tuple[CallResult, ...]
    """The results that are tensors, those without rows first."""
    calls: int
    """Of modules that may be played, within it, those that hold no others; 1: it is itself one."""


class PlayedModule:
    """Stands for the module where LLM Compressor looks it up and calls it."""

    recorded = 0
    """Calls that are being run and recorded now, each within the one before it."""
    called = played = 0
    """Calls of all modules that hold no others of these, and of them those that were not run."""

    def __init__(self, module: Any, books: TensorBooks, run: Callable[..., Any] | None = None) -> None:
        self._module, self._books, self._run = module, books, run or module
        self._did: Did | None = None
        self._equal, self._call = 0, -1

    def __del__(self) -> None:
        if self._call >= 0:  # a search has one of these for each of its points
            self._books.drop(self._call)

    def __hash__(self) -> int:
        return hash(self._module)

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *values: Any, **named: Any) -> Any:
        """The module's own call, or what it would leave behind."""
        inputs = self._inputs(values, named)
        if self._did is not None and self._equal >= EQUAL and inputs == self._did.inputs and self._has_room():
            PlayedModule.called += self._did.calls
            PlayedModule.played += self._did.calls
            return self._play(self._did)
        before = PlayedModule.called
        self._books.record()
        PlayedModule.recorded += 1
        try:
            made = self._run(*values, **named)
        finally:
            done = self._books.recorded()
            PlayedModule.recorded -= 1
            PlayedModule.called = max(PlayedModule.called, before + 1)
        did = self._judged(inputs, done, made, PlayedModule.called - before)
        self._equal = self._equal + 1 if did is not None and did == self._did else int(did is not None)
        self._did = did
        return made

    def _inputs(self, values: Any, named: Any) -> Hashable | None:
        """Equal for inputs that memory cannot tell apart; None: nobody knows."""
        if torch.is_grad_enabled():
            return None
        try:
            return shape((values, named), self._books)
        except Doubt:
            return None

    def _judged(self, inputs: Hashable | None, done: RecordedCall, made: Any, calls: int) -> Did | None:
        """The call, if it can be played: all that outlives it is what it returns."""
        if inputs is None or not done.plain or done.large or done.change:
            return None
        self._call, addresses = self._books.keep(self._call, done.survivors)
        each = made if type(made) is tuple else (made,)
        found = [tensor for tensor in each if tensor is not None]
        if not all(type(tensor) is torch.Tensor and _is_plain(tensor) for tensor in found):
            return None
        if sorted(tensor.untyped_storage().data_ptr() for tensor in found if tensor.nbytes) != sorted(addresses):
            return None
        results = tuple(None if tensor is None else self._result(tensor, addresses) for tensor in each)
        by_birth = tuple(sorted((each for each in results if each), key=lambda each: each.number))
        return Did(inputs, done.hash, done.cpu, done.rise, results, type(made) is tuple, by_birth, calls)

    def _result(self, tensor: torch.Tensor, addresses: list[int]) -> CallResult:
        form = tuple(tensor.shape), tensor.stride(), tensor.dtype
        if not tensor.nbytes:
            return CallResult(EMPTY, *form, 0)
        return CallResult(addresses.index(tensor.untyped_storage().data_ptr()), *form, self._books.numbers(tensor))

    def _play(self, did: Did) -> Any:
        books, place, made = self._books, 0, dict[CallResult, torch.Tensor]()
        books.rise(did.rise)
        for result in did.by_birth:
            if result.number == EMPTY:
                made[result] = _tensor(result)
                continue
            place, origin = books.play(self._call, place)
            with books.made_at(origin):
                made[result] = _tensor(result)
            if result.numbers:
                books.know(self._call, place, made[result])
            place += 1
        books.play(self._call, place)
        each = tuple(None if result is None else made[result] for result in did.results)
        return each if did.is_tuple else each[0]

    def _has_room(self) -> bool:
        return self._books.has_room(self._call)


def is_on_card(tensor: torch.Tensor) -> bool:
    """The tensor lies on a card."""
    return tensor.is_cuda


def _is_plain(tensor: torch.Tensor) -> bool:
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return is_on_card(tensor) and is_whole and not tensor.requires_grad


def _tensor(result: CallResult) -> torch.Tensor:
    return torch.empty_strided(result.shape, result.stride, dtype=result.dtype, device=CARD)
