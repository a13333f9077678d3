"""A tensor whose lifetime is the indentation."""

from types import TracebackType
from typing import Protocol

from planner.compress.holdings import DeviceName, Owner
from planner.timeline import Handle


class Lender(Protocol):
    """Gives tensors, as the ledger does."""

    def alloc(self, device: DeviceName, nbytes: int, kind: str, owner: Owner | str) -> Handle:
        """Take one tensor of `nbytes` for `owner` until `free`."""

    def free(self, handle: Handle) -> None:
        """Give it back."""


class Temporary:
    """Takes one tensor where a `with` block begins, and gives it back where that ends.

    Most tensors of a job are temporaries: a generator of `contextlib` would cost as much as the books do.
    """

    __slots__ = ("_device", "_handle", "_kind", "_lender", "_nbytes", "_owner")

    def __init__(self, lender: Lender, device: DeviceName, nbytes: int, kind: str, owner: Owner | str) -> None:
        self._lender, self._device, self._nbytes, self._kind, self._owner = lender, device, nbytes, kind, owner

    def __enter__(self) -> Handle:
        self._handle = self._lender.alloc(self._device, self._nbytes, self._kind, self._owner)
        return self._handle

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lender.free(self._handle)
