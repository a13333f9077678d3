"""What autograd does on a GPU where it does otherwise while a recorder looks on."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from planner.cuda.operators import VIEWS
from planner.models.recorder import Key, Recorder, TraceListener, storage_key
from planner.models.traces import CUDA, Event

IN_PLACE = frozenset(("scatter", "index_put"))
"""What backward writes into zeros of its own."""

BACKWARD = "backward"
"""The thread that autograd runs backward in: torch/csrc/autograd/engine.cpp has one for each card."""

ALONE = 2
"""Uses of a storage that nobody holds but one tensor: the tensor's, and the one of the Python object that counts."""


class TrainingRecorder(Recorder):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """A recorder of forward and backward.

    Under a recorder `isTensorSubclassLike` is true for every tensor, and then autograd changes none in place. Without
    it does: torch/csrc/autograd/input_buffer.cpp accumulate sums up a gradient with several sources, if nobody else
    holds the first part; FunctionsManual.cpp index_backward and value_selecting_reduction_backward_symint write into
    the zeros that they make.
    """

    is_backward = False

    def __init__(self, experts: int, listener: TraceListener) -> None:
        super().__init__(experts, listener)
        self._made: dict[object, tuple[Any, Any, torch.dtype]] = {}
        self._cards: dict[Key, int] = {}
        """Of storages that lie on another card than the first."""
        self._target: int | None = None

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Inside, autograd runs backward."""
        self.is_backward, self.thread = True, BACKWARD
        try:
            yield
        finally:
            self.is_backward, self.thread = False, ""

    # ------------------------------------------------------------------ several cards
    def place(self, tensor: torch.Tensor, card: int) -> None:
        """The tensor lies on this card; what is computed of it does, too."""
        self._cards[storage_key(tensor)] = card

    def card_of(self, tensor: torch.Tensor) -> int:
        """The card on which the tensor lies."""
        return self._cards.get(storage_key(tensor), 0)

    def copied(self, tensor: torch.Tensor, card: int) -> torch.Tensor:
        """Tensor.to of another card."""
        with self.on_card(card):
            return tensor.clone()

    @contextmanager
    def on_card(self, card: int) -> Iterator[None]:
        """Inside, results lie on this card, whatever they are made beside."""
        before, self._target = self._target, card
        try:
            yield
        finally:
            self._target = before

    def _read(self, tensors: list[torch.Tensor]) -> None:
        if self._target is not None:
            self.card = self._target
        else:  # what an operator reads lies on one card, but for single numbers
            self.card = max((self.card_of(tensor) for tensor in tensors), default=0) if self._cards else 0
        super()._read(tensors)

    def _watch(self, tensor: torch.Tensor, key: Key) -> None:
        if self.card and key not in self._refs:
            self._cards[key] = self.card
        super()._watch(tensor, key)

    def _died(self, key: Key, reference: object) -> None:
        self._cards.pop(key, None)
        super()._died(key, reference)

    def temporary(self, nbytes: int, operator: str) -> None:
        """Write that a CUDA build alone takes this much, and gives it back."""
        number, self._next = self._next, self._next + 1
        where = self.listener.where()
        self.append(Event("alloc", number, nbytes, where, operator, category=CUDA, card=self.card))
        self.append(Event("free", number, category=CUDA))

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """An operator that ran on tensors of these sizes and types makes the same again: experts are many and equal."""
        if name in VIEWS or not _makes_one_tensor(func):
            return super()._run(func, name, args, kwargs)
        key = func, _described(args), _described(tuple(kwargs.items()))
        known = self._made.get(key)
        if known is None:
            result = super()._run(func, name, args, kwargs)
            self._made[key] = result.size(), result.stride(), result.dtype
            return result
        size, stride, dtype = known
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")

    def _on_meta(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if self.is_backward and (name in IN_PLACE or (name == "add" and _is_sum(*args[:2]))) and _is_alone(args[0]):
            return args[0]
        return super()._on_meta(func, name, args, kwargs)


@cache
def _makes_one_tensor(func: Any) -> bool:
    """Whether its result is one tensor with a storage of its own."""
    schema = func._schema
    returns = schema.returns
    is_tensor = len(returns) == 1 and str(returns[0].type) == "Tensor"
    return is_tensor and not schema.is_mutable and returns[0].alias_info is None


def _described(value: Any) -> object:
    """What decides the size and the type of an operator's result."""
    if isinstance(value, torch.Tensor):
        return tuple(value.size()), value.stride(), value.dtype, value.is_cpu
    if isinstance(value, list | tuple):
        return tuple(_described(each) for each in value)
    return type(value), value


def _is_sum(first: Any, second: Any) -> bool:
    """Whether the second tensor can be a gradient's second part."""
    return isinstance(second, torch.Tensor) and first.shape == second.shape and first.dtype == second.dtype


def _is_alone(tensor: torch.Tensor) -> bool:
    """Whether nobody else holds its storage."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) <= ALONE


class MeanSquare(torch.autograd.Function):
    """torch.nn.functional.mse_loss: aten/src/ATen/native/Loss.cpp mse_loss_out.

    CUDA's mean is written into a tensor that was made for all squares: the loss keeps its whole storage.
    """

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor, wanted: torch.Tensor, recorder: TrainingRecorder) -> torch.Tensor:
        ctx.save_for_backward(given, wanted)
        result = torch.empty_like(given)
        recorder.temporary(given.numel() * given.element_size(), "mse_loss")
        return result.view(-1)[0]

    @staticmethod
    def backward(ctx: Any, *_grads: torch.Tensor) -> Any:
        given, _wanted = ctx.saved_tensors
        return torch.empty_like(given), None, None


class CrossCard(torch.autograd.Function):
    """Tensor.to of another card under autograd: the gradient goes back (torch/csrc/autograd ToCopyBackward)."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, card: int, recorder: TrainingRecorder) -> torch.Tensor:
        ctx.home, ctx.card, ctx.recorder = recorder.card_of(tensor), card, recorder
        return recorder.copied(tensor, card)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.recorder.copied(grads[0], ctx.home), None, None


def moved(tensor: torch.Tensor, card: int, recorder: TrainingRecorder) -> torch.Tensor:
    """The tensor on this card: itself where it lies there."""
    if recorder.card_of(tensor) == card:
        return tensor
    result: torch.Tensor = CrossCard.apply(tensor, card, recorder)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return result
