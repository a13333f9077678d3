"""What every part of the simulation shares: the books, the job, what is onloaded, Python names."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from planner.compress.ledger import Device, Handle, Ledger, Owner
from planner.job import Job


class Frame:
    """The local names of one Python function: assigning takes the new tensor, then lets the old go.

    Leaving the `with` block returns from the function: what its names held is freed, except what
    `hand_over` gave to the caller.
    """

    def __init__(self, context: "Context", kind: str, owner: Owner | str) -> None:
        self._context, self.kind = context, kind
        self.owner = owner if isinstance(owner, Owner) else Owner(owner)
        self._names: dict[str, Handle] = {}

    def assign(self, name: str, nbytes: int, kind: str | None = None, label: str | None = None) -> Handle:
        """name = a new tensor of `nbytes`, which the books call `label`."""
        handle = self._context.take(nbytes, kind or self.kind, self.owner.part(label or name))
        self.bind(name, handle)
        return handle

    def bind(self, name: str, handle: Handle) -> None:
        """name = a tensor that exists already."""
        old = self._names.pop(name, None)
        self._names[name] = handle
        if old is not None and old != handle:
            self._context.ledger.free(old)

    def delete(self, *names: str) -> None:
        """del name: unset names are ignored."""
        for name in names:
            handle = self._names.pop(name, None)
            if handle is not None:
                self._context.ledger.free(handle)

    def holds(self, name: str) -> bool:
        """The name is set."""
        return name in self._names

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`."""
        return [name for name in self._names if name.startswith(prefix)]

    def free(self, handle: Handle) -> None:
        """A tensor that was returned and is not kept."""
        self._context.ledger.free(handle)

    def hand_over(self, name: str) -> Handle:
        """Return this name's tensor to the caller."""
        return self._names.pop(name)

    def temporary(self, nbytes: int, what: str, kind: str | None = None) -> None:
        """A tensor that is gone at the end of the statement."""
        with self.during(nbytes, what, kind):
            pass

    @contextmanager
    def during(self, nbytes: int, what: str, kind: str | None = None) -> Iterator[None]:
        """A tensor that lives as long as the block."""
        with self._context.ledger.hold(self._context.device, nbytes, kind or self.kind, self.owner.part(what)):
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete(*list(self._names))


@dataclass(slots=True)
class Context:
    """State of the job at one moment."""

    job: Job
    ledger: Ledger = field(default_factory=Ledger)
    device: Device = "gpu"
    """Where forwards and modifiers compute; the basic pipeline computes where the model lies."""
    onloaded: dict[str, Handle] = field(default_factory=dict)
    """Names of parameters on the GPU until the subgraph ends (`disable_offloading`)."""
    keep_onloaded: bool = True
    """False in the data-free pipeline: each access onloads anew, and is freed at once."""

    def frame(self, kind: str, owner: Owner | str) -> Frame:
        """Local names for a function of the library."""
        return Frame(self, kind, owner)

    def take(self, nbytes: int, kind: str, owner: Owner | str) -> Handle:
        """A tensor on the computing device."""
        return self.ledger.alloc(self.device, nbytes, kind, owner)

    def onload(self, name: str, nbytes: int, kind: str = "weights") -> None:
        """compressed_tensors offload/cache/base.py OffloadCache.__getitem__: copied on first access."""
        if self.device == "cpu" or name in self.onloaded:
            return
        handle = self.ledger.alloc("gpu", nbytes, kind, name)
        if self.keep_onloaded:
            self.onloaded[name] = handle
        else:
            self.ledger.free(handle)

    @contextmanager
    def accessed(self, name: str, nbytes: int, kind: str = "weights") -> Iterator[None]:
        """The parameter on the computing device while the block uses it."""
        if self.device == "cpu" or self.keep_onloaded:
            self.onload(name, nbytes, kind)
            yield
        else:
            with self.ledger.hold("gpu", nbytes, kind, name):
                yield

    def offload_all(self) -> None:
        """Leave `disable_offloading`: every onloaded parameter is released."""
        self.ledger.free_all(self.onloaded.values())
        self.onloaded.clear()

    @property
    def free_gpu_bytes(self) -> int:
        """torch.cuda.mem_get_info's free bytes, as if only this job's tensors were there."""
        return max(0, self.job.gpu_memory_bytes - self.ledger.live("gpu"))
