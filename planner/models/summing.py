"""What autograd does on a GPU where it does otherwise while a recorder looks on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from planner.models.recorder import Recorder
from planner.models.traces import CUDA, Event

ALONE = 2
"""Uses of a storage that nobody holds but one tensor: the tensor's, and the one of the Python object that counts."""


class TrainingRecorder(Recorder):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """A recorder of forward and backward.

    torch/csrc/autograd/input_buffer.cpp accumulate: a gradient with several sources is summed up in place, if nobody
    else holds the first part. Under a recorder it is not, because `isTensorSubclassLike` is true for every tensor.
    """

    is_backward = False

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Inside, autograd runs backward."""
        self.is_backward = True
        try:
            yield
        finally:
            self.is_backward = False

    def temporary(self, nbytes: int, operator: str) -> None:
        """Write that a CUDA build alone takes this much, and gives it back."""
        number, self._next = self._next, self._next + 1
        self.append(Event("alloc", number, nbytes, self.listener.where(), operator, category=CUDA))
        self.append(Event("free", number, category=CUDA))

    def _on_meta(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if self.is_backward and name == "add" and _is_sum(*args[:2]):
            return args[0]
        return super()._on_meta(func, name, args, kwargs)


def _is_sum(first: Any, second: Any) -> bool:
    """Whether a gradient's second part is added to the first in place."""
    if not isinstance(second, torch.Tensor) or first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch._C._storage_Use_Count(first.untyped_storage()._cdata) <= ALONE


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
