"""State that all parts of the simulation share: the books, the job, onloaded parameters, Python's local names.

Lifetimes decide how much memory the library takes. A context offers three kinds of them:

- a **frame** is a Python function: its names hold tensors until they are bound anew or the function returns;
- **onloaded** parameters stay on the GPU until the subgraph ends (`disable_offloading`);
- a temporary of one expression lives as long as a `with` block.

A job repeats itself: batches, blocks of columns, layers. `Shortcuts` says which repetitions are walked once and counted
for several; a law (tests/property) says that this changes no figure.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

from planner.compress.devices import STREAMS, CountingDevice
from planner.compress.holdings import DeviceName, Owner
from planner.compress.ledger import Keep, Ledger
from planner.compress.losses import Losses
from planner.compress.ranks import Rank
from planner.compress.temporary import Temporary
from planner.compress.traced_forward import TracedForward
from planner.compress.traffic import Traffic
from planner.cuda.build import CudaBuild
from planner.cuda.requests import Requests
from planner.job import Job
from planner.timeline import Handle

T = TypeVar("T")

WORKSPACE = "cuda_workspace"
"""The kind of what CUDA's own libraries and operators take."""
BLOCKS = 3
"""Blocks walked at the start of a weight: the first shows what a block needs, the others what is left over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """Which repetitions are walked once for several, because the others are known to be equal."""

    subgraphs: bool = True
    """Equal subgraphs that find equal leftovers."""
    batches: bool = True
    """Batches between one that leaves the device as it found it and the last two."""
    calls: bool = True
    """Equal calls inside a forward, as those of a mixture's experts are, but for the first batch of a pass."""
    blocks: bool = True
    """Blocks of columns inside one weight's update."""
    modules: bool = True
    """Equal units of the data-free pipeline."""
    settled: int | None = None
    """Batches and subgraphs that differ in places alone: after so many in a row that needed nothing from the
    driver, the rest is taken to need nothing either. None: they are walked until their places return."""

    def of_blocks(self, blocks: Sequence[T]) -> Sequence[T]:
        """The blocks to walk: the first ones and the last."""
        if not self.blocks or len(blocks) <= BLOCKS + 1:
            return blocks
        return [*blocks[:BLOCKS], blocks[-1]]


PLACED = Shortcuts(blocks=False, modules=False, settled=8)
"""For a device that gives each tensor a place: what is walked once for several must be equal in places too."""
PLACED_IN_PART = Shortcuts(settled=3)
"""The same for jobs with thousands of modules, where that would take minutes."""
EVERYTHING = Shortcuts(subgraphs=False, batches=False, calls=False, blocks=False, modules=False)
"""Walk all of the job."""


class Frame:
    """The local names of one Python function: assigning takes the new tensor, then lets the old go.

    A name holds one tensor, or a dictionary of several. Leaving the `with` block returns from the function: what
    its names hold is freed, except what `hand_over` gave to the caller.
    """

    def __init__(self, context: "Context", kind: str, owner: Owner | str) -> None:
        self._context, self.kind = context, kind
        self._owner = owner if isinstance(owner, Owner) else Owner(owner)
        self._names: dict[str, tuple[Handle, ...]] = {}
        self._parts: dict[str, Owner] = {}

    @property
    def owner(self) -> Owner:
        """Whose tensors the names hold; a loop's frame belongs to one owner after the other."""
        return self._owner

    @owner.setter
    def owner(self, owner: Owner) -> None:
        self._owner = owner
        self._parts.clear()

    def assign(self, name: str, nbytes: int, kind: str | None = None, label: str | None = None) -> Handle:
        """name = a new tensor of `nbytes`, which the books call `label`."""
        handle = self._context.take(nbytes, kind or self.kind, self._part(label or name))
        self.bind(name, handle)
        return handle

    def bind(self, name: str, *handles: Handle) -> None:
        """name = tensors that exist already. What the name held before is freed, unless it is among these."""
        old = self._names.pop(name, ())
        self._names[name] = handles
        if old:
            self._context.ledger.free_all(handle for handle in old if handle not in handles)

    def move(self, name: str, other: str) -> None:
        """other = name; del name: nothing is freed but what `other` held before."""
        self.bind(other, *self._names.pop(name, ()))

    def extend(self, name: str, handles: Iterable[Handle]) -> None:
        """Add tensors to the dictionary that `name` holds."""
        self._names[name] = (*self._names.get(name, ()), *handles)

    def delete(self, *names: str) -> None:
        """del name: unset names are ignored."""
        for name in names:
            if held := self._names.pop(name, ()):
                self._context.ledger.free_all(held)

    def holds(self, name: str) -> bool:
        """The name is set."""
        return name in self._names

    def held(self, name: str) -> tuple[Handle, ...]:
        """What the name holds."""
        return self._names.get(name, ())

    def names(self, prefix: str = "") -> list[str]:
        """Names that begin with `prefix`."""
        return [name for name in self._names if name.startswith(prefix)]

    def free(self, handle: Handle) -> None:
        """Free a tensor that a function returned and its caller does not keep."""
        self._context.ledger.free(handle)

    def hand_over(self, name: str) -> Handle:
        """Return this name's one tensor to the caller."""
        (handle,) = self._names.pop(name)
        return handle

    def temporary(self, nbytes: int, what: str, kind: str | None = None) -> None:
        """A tensor that is gone at the end of the statement."""
        with self.during(nbytes, what, kind):
            pass

    def during(self, nbytes: int, what: str, kind: str | None = None) -> Temporary:
        """A tensor that lives as long as the block."""
        return self._context.ledger.hold(self._context.device, nbytes, kind or self.kind, self._part(what))

    @property
    def build(self) -> CudaBuild | None:
        """The CUDA build that the function computes with, if that is modelled."""
        return self._context.cuda if self._context.device == "gpu" else None

    @property
    def computes_on_cpu(self) -> bool:
        """The function computes in CPU memory, where no Triton kernel runs."""
        return self._context.device == "cpu"

    def single(self, nbytes: int, what: str) -> AbstractContextManager[Handle | None]:
        """A tensor of one element that lives as long as the block; the counting device passes over it."""
        return nullcontext() if self.build is None else self.during(nbytes, what)

    def once(self, what: str, *sizes: int) -> None:
        """Tensors that a cache of the library's takes at the first call, and keeps for the rest of the job."""
        if what not in self._context.cached:
            self._context.cached.add(what)
            for nbytes in sizes:
                self._context.take(nbytes, self.kind, what)

    def operator(self, requests: Requests, what: str) -> None:
        """Take and give back what a CUDA operator without a result of its own does (planner/cuda)."""
        self._play(requests, what, 0)

    def result(self, name: str, nbytes: int, requests: Requests, label: str | None = None) -> None:
        """name = what a CUDA operator returns, with all that it takes and gives back beside its result."""
        handle = self._play(requests, label or name, nbytes)
        assert handle is not None, f"{label or name}: an operator without a result"
        self.bind(name, handle)

    def _play(self, requests: Requests, what: str, nbytes: int) -> Handle | None:
        context, owner = self._context, self._part(what)
        taken: list[Handle] = []
        result = None
        for request in requests:
            if request.action == "take":
                taken.append(context.take(request.amount, WORKSPACE, owner))
            elif request.action == "give":
                context.ledger.free(taken[request.amount])
            elif request.action == "product":
                context.multiply()
            elif nbytes:
                result = context.take(nbytes, self.kind, owner)
        return result

    def _part(self, role: str) -> Owner:
        """The owner in this role, one object however often it is asked for."""
        owner = self._parts.get(role)
        if owner is None:
            owner = self._parts[role] = self.owner.part(role)
        return owner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete(*list(self._names))


class Context:
    """State of the job at one moment."""

    def __init__(
        self,
        job: Job,
        ledger: Ledger | None = None,
        *,
        shortcuts: Shortcuts | None = None,
        keep: Keep = "peaks",
        cuda: CudaBuild | None = None,
        device: DeviceName = "gpu",
        rank: Rank | None = None,
    ) -> None:
        self.job = job
        self.rank = rank or (Rank(0, job.ranks) if job.ranks > 1 else None)
        """The process that is simulated; None where there is no torchrun."""
        self.ledger = ledger or Ledger(
            gpu=CountingDevice(job.gpu_memory_bytes),
            keep=keep,
            second=CountingDevice(job.gpu_memory_bytes) if job.has_second_gpu else None,
        )
        self.shortcuts = shortcuts or (PLACED if self.ledger.places("gpu") else Shortcuts())
        if self.ledger.keep == "timeline":  # every layer's events, not one layer's for many
            self.shortcuts = replace(self.shortcuts, subgraphs=False, calls=False, modules=False)
        if self.ledger.places("gpu"):
            # what the second card does is not done again
            is_alone = "gpu1" not in self.ledger.devices
            self.shortcuts = replace(self.shortcuts, subgraphs=self.shortcuts.subgraphs and is_alone)
        self.cuda = cuda
        """The CUDA build that is modelled; None: the counting device, which takes results alone."""
        self.traffic = Traffic()
        self._multiplied: set[tuple[DeviceName, str]] = set()
        self.second_gpu = 0
        """Number of the card that the books call gpu1, if there is one."""
        self.cached: set[str] = set()
        """What the library's own caches keep (`Frame.once`)."""
        self.streams = 0
        """How many CUDA streams were made."""
        self.weights_on_gpu = job.weights == "gpu" and device == "gpu"
        """Weights and qparams lie on the GPU for all of the job: to onload them does nothing."""
        self.device: DeviceName = device
        """Where forwards and modifiers compute: the CPU on a machine without a GPU (llmcompressor utils/dev.py
        get_main_device), and in the basic pipeline, which computes where the model lies."""
        self.is_on_disk: Callable[[str], bool] = lambda _module: False
        """The module's weights lie on the disk while no subgraph uses them."""
        self.head: tuple[str, int] = ("", 0)
        """Name and bytes of the output head's weight; the pipeline sets it."""
        self.losses = Losses()
        self.onloaded: dict[str, Handle] = {}
        """Names of parameters on the GPU until the subgraph ends (`disable_offloading`)."""
        self.shared: set[Handle] = set()
        """Of `onloaded`, weights in the CPU memory that ranks share, beside those that the model has."""
        self.waiting: set[str] = set()
        """What the traced forward onloads from the CPU, wherever the weights are."""
        self.keep_onloaded = True
        """False in the data-free pipeline: each access onloads the parameter anew and frees it at once."""
        self._forward: TracedForward | None = None

    @property
    def forward(self) -> TracedForward:
        """The forward of the pipeline that runs; the pipeline sets it."""
        if self._forward is None:
            raise ValueError("no pipeline runs")
        return self._forward

    @forward.setter
    def forward(self, forward: TracedForward) -> None:
        self._forward = forward

    def card(self, number: int) -> DeviceName | None:
        """What the books call the card of this number: None for one that has none."""
        if number == 0 or self.device == "cpu":
            return self.device
        return "gpu1" if number == self.second_gpu else None

    def frame(self, kind: str, owner: Owner | str) -> Frame:
        """Local names for a function of the library."""
        return Frame(self, kind, owner)

    @property
    def shared_bytes(self) -> int:
        """What is still there of `shared`."""
        return sum(self.ledger.size(handle) for handle in self.onloaded.values() if handle in self.shared)

    def take(self, nbytes: int, kind: str, owner: Owner | str) -> Handle:
        """A tensor on the computing device."""
        return self.ledger.alloc(self.device, nbytes, kind, owner)

    def multiply(self, card: DeviceName = "gpu", thread: str = "") -> None:
        """A product on the GPU: cuBLAS's first one takes its workspace, and keeps it for the rest of the job.

        ATen/cuda/CublasHandlePool.cpp: one for each handle, and each thread has one on each card.
        """
        if self.cuda and self.device == "gpu" and (card, thread) not in self._multiplied:
            self._multiplied.add((card, thread))
            owner = Owner("workspace of cuBLAS", f"in {thread}" if thread else "")
            self.ledger.alloc(card, self.cuda.cublas_workspace, WORKSPACE, owner)

    def new_stream(self) -> int:
        """torch.Stream(): the next of PyTorch's pool, round about (c10/cuda/CUDAStream.cpp getStreamFromPool)."""
        self.streams += 1
        return (self.streams - 1) % STREAMS + 1

    def onload(self, name: str, nbytes: int, kind: str = "weights", *, waits: bool = False) -> None:
        """compressed_tensors offload/cache/base.py OffloadCache.__getitem__: copied on first access.

        `waits`: it lies on the CPU, wherever the weights are.
        """
        if self.device == "cpu" or (self.weights_on_gpu and not waits) or name in self.onloaded:
            return
        handle = self.copied_to_gpu(name, self.losses.resized.get(name, nbytes), kind)
        if self.keep_onloaded:
            self.onloaded[name] = handle
        else:
            self.ledger.free(handle)

    def rebind(self, name: str, handle: Handle, stored: int | None = None) -> None:
        """parameter.data = a new tensor: on the GPU copy alone where there is one (`keep_onloaded_values`).

        Elsewhere it takes the old one's place in the model for good. Qparams of `stored` bytes may change their size.
        """
        old, size, qparams = self.onloaded.get(name), self.ledger.size(handle), self.losses.qparams
        if old is not None:
            self.onloaded[name] = handle
        elif stored and qparams is not None and not self.is_on_disk(name):
            self.ledger.grow(qparams, -self.losses.resized.get(name, stored))
            self.ledger.give(handle, qparams)
            self.losses.resized[name] = size
            return
        self.ledger.free(handle if old is None else old)

    def written(self, nbytes: int, copies: int = 1) -> None:
        """compressed_tensors offload/cache/base.py OffloadCache.__setitem__: a new value goes where the old one is."""
        if self.device == "gpu" and not self.weights_on_gpu:
            self.traffic.off_gpu(nbytes * copies)

    def replace_weight(self, name: str, new: int, *, old: int, dropped: int) -> None:
        """A parameter of `old` bytes gives way to one of `new`, and weights of `dropped` bytes leave the model.

        What lies on the CPU stays until what is onloaded goes: offload/cache/base.py OffloadCache keeps the pairs.
        """
        if self.weights_on_gpu or self.device == "cpu" or self.losses.model is None:
            return
        if name in self.onloaded:
            self.onloaded[f"{name}, the old one"] = self.onloaded.pop(name)
        self.losses.replace(name, new, old, dropped)
        self.written(new)
        self.ledger.grow(self.losses.model, new)

    @contextmanager
    def accessed(self, name: str, nbytes: int, kind: str = "weights", copies: int = 1) -> Iterator[None]:
        """The parameter on the computing device while the block uses it; `copies` of it in turn, each onloaded."""
        if self.device == "cpu" or self.weights_on_gpu or self.keep_onloaded:
            self.onload(name, nbytes, kind)
            yield
        else:
            handle = self.copied_to_gpu(name, nbytes, kind, copies)
            yield
            self.ledger.free(handle)

    def copied_to_gpu(self, name: str, nbytes: int, kind: str = "weights", copies: int = 1) -> Handle:
        """A copy of the parameter on the GPU; of `copies` of it in turn, one is there.

        cache/disk.py DiskCache.onload: from the disk it goes through a pinned tensor of its size on the CPU
        (safetensors bindings/python/src/lib.rs get_tensor_pinned_cuda).
        """
        self.traffic.onto_gpu(nbytes * copies)
        if not self.is_on_disk(name):
            return self.ledger.alloc("gpu", nbytes, kind, name)
        with self.ledger.hold("cpu", nbytes, kind, Owner(name, "in pinned memory")):
            return self.ledger.alloc("gpu", nbytes, kind, name)

    def copied_to_disk(self, nbytes: int, owner: Owner | str) -> None:
        """cache/disk.py DiskCache.update_offload: safetensors copies a tensor of the GPU to the CPU to write it."""
        if self.device == "gpu":
            with self.ledger.hold("cpu", nbytes, "model", owner):
                pass

    def offload_all(self) -> None:
        """Leave `disable_offloading`: every onloaded parameter is released."""
        self.ledger.free_all(self.onloaded.values())
        self.onloaded.clear()
        if self.losses.outgoing and self.losses.model is not None:
            self.ledger.grow(self.losses.model, -self.losses.leave())
