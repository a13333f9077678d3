"""No kernel runs: Triton's launches do nothing, convolutions take PyTorch's own kernels; RAM is the machine's, and the
card is there."""

import functools
from typing import Any

import torch
from torch.utils._device import _device_constructors

from planner.rehearse.child.books import TensorBooks
from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.settings import Settings


def install(settings: Settings, books: TensorBooks, hooks: Hooks) -> None:
    """Put all of it in place."""
    torch.backends.cudnn.enabled = False
    # llmcompressor/pipelines/cache.py _onload_value asks for each tensor: a tenth of an AWQ script's time
    torch.accelerator.is_available = functools.cache(torch.accelerator.is_available)
    # else, where algorithms must be deterministic (AutoRound says so), NaN is written into all memory that is taken
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined,unused-ignore]  # not in stubs
    hooks.after("triton.runtime.jit", _launch_nothing)
    _watch_questions(books)
    _device_constructors()  # `with torch.device(...)` knows these functions by identity: it must know the real ones
    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
        setattr(owner, name, _made_on_cpu(getattr(owner, name)))
    if settings.ram_bytes:
        hooks.after("psutil", lambda module: _machine_of(module, settings.ram_bytes or 0))


def _launch_nothing(module: Any) -> None:
    def run(_kernel: Any, *_values: Any, **_named: Any) -> None:
        """No card, no kernel."""

    module.JITFunction.run = run


def _made_on_cpu(own: Any) -> Any:
    """Numbers on the card are made into a tensor on the CPU and moved: PyTorch does the same, and shows nobody."""

    @functools.wraps(own)
    def made(*values: Any, device: Any = None, **named: Any) -> Any:
        asked = values[0].device if device is None and own.__name__ == "new_tensor" else device
        if asked is None or torch.device(asked).type != "cuda":
            return own(*values, **named) if device is None else own(*values, device=device, **named)
        named.pop("pin_memory", None)  # what comes from the card is not pinned
        needs_grad = named.pop("requires_grad", False)
        moved = own(*values, device="cpu", **named).to(asked)
        return moved.requires_grad_() if needs_grad else moved

    return made


def _watch_questions(books: TensorBooks) -> None:
    own = torch.cuda.mem_get_info

    def mem_get_info(*values: Any, **named: Any) -> Any:
        books.asked()
        return own(*values, **named)

    torch.cuda.mem_get_info = torch.cuda.memory.mem_get_info = mem_get_info


def _machine_of(module: Any, ram: int) -> None:
    """The machine's RAM is what the user said, less what this process has."""
    own = module.virtual_memory

    def virtual_memory() -> Any:
        real = own()
        return real._replace(total=ram, available=min(ram, max(0, ram - module.Process().memory_info().rss)))

    module.virtual_memory = virtual_memory
