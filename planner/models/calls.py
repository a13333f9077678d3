"""What runs while a model's forward is traced: the stack of module calls, hooks on Linears, the output head."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode

from planner.models.failures import pass_on, stands_in
from planner.models.recorder import Recorder
from planner.models.traces import Call, Event

HOOKED = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)

Before = Callable[[torch.nn.Module, Any], None]
After = Callable[[torch.nn.Module, Any, Any], None]


class ModuleCalls:
    """Follows the calls of `model`'s modules, and writes those that LLM Compressor hooks to `recorder`."""

    def __init__(self, model: torch.nn.Module, recorder: Recorder) -> None:
        self.recorder = recorder
        self.prefix = ""
        """The sequential target that is running; names under it start with a dot."""
        self._names: dict[int, str] = {id(m): name for name, m in model.named_modules()}
        self._head = _output_head(model)
        self._head_ran = False
        self._stack: list[str] = []

    def name(self, module: torch.nn.Module) -> str:
        """The module's full name; empty for the model itself and for modules outside of it."""
        return self._names.get(id(module), "")

    def where(self) -> str:
        """Name of the module that is running, as events have it."""
        return self.relative(self._stack[-1]) if self._stack else ""

    def relative(self, name: str) -> str:
        """Names under the segment's target start with a dot: they repeat in equal segments."""
        if self.prefix and (name + ".").startswith(self.prefix + "."):
            return name[len(self.prefix) :] or "."
        return name

    # ------------------------------------------------------------------ what stands in for the model's own
    def patches(self, inner: Iterable[Any], before: Before, after: After) -> Iterator[Any]:
        """Contexts to enter, in order, for the forward; `before` and `after` run around every module's forward.

        The output head is patched before the tracer's own, `inner`: it may be one of their targets or leaves.
        """
        if self._head is not None:
            yield patched_forward(self._head, self._meta_head(self._head))
        yield from inner
        yield _hooks(before, after)
        yield HalfSoftmax()

    def _meta_head(self, head: torch.nn.Linear) -> Callable[..., torch.Tensor]:
        """utils/helpers.py disable_lm_head: the logits exist on the meta device alone."""

        def forward(hidden: torch.Tensor) -> torch.Tensor:
            self.recorder.stop()
            self._head_ran = True
            return torch.empty(*hidden.shape[:-1], head.out_features, dtype=hidden.dtype, device="meta")

        return forward

    # ------------------------------------------------------------------ hooks of all modules
    def enter(self, module: torch.nn.Module, args: Any) -> None:
        """A module's forward begins."""
        self._stack.append(self.name(module))
        if isinstance(module, HOOKED) and args and self.recorder.recording:
            self.recorder.append(Event("enter", call=self._call(self._stack[-1], args[0], None)))

    def leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        """A module's forward is over."""
        name = self._stack.pop()
        if isinstance(module, HOOKED) and args and (self.recorder.recording or self._is_head(module)):
            self.recorder.append(Event("exit", call=self._call(name, args[0], output)))

    def _is_head(self, module: torch.nn.Module) -> bool:
        return self._head_ran and module is self._head

    def _call(self, name: str, tensor: torch.Tensor, output: Any) -> Call:
        columns = tensor.shape[-1] if tensor.dim() else 1
        return Call(
            module=self.relative(name),
            rows=tensor.numel() // max(1, columns),
            columns=columns,
            itemsize=tensor.element_size(),
            contiguous=tensor.is_contiguous(),
            dims=tuple(tensor.shape),
            output=tuple(output.shape) if isinstance(output, torch.Tensor) else (),
            output_itemsize=output.element_size() if isinstance(output, torch.Tensor) else 0,
        )


class HalfSoftmax(TorchFunctionMode):
    """CUDA's softmax of float16 into float32 reads the half directly, without a float32 copy.

    aten/src/ATen/native/SoftMax.cpp softmax(): half_to_float is taken for CUDA float16 inputs alone.
    """

    @stands_in
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            getattr(func, "__name__", "") == "softmax"
            and kwargs.get("dtype") == torch.float32
            and args[0].dtype == torch.float16
        ):
            dim = kwargs["dim"] if "dim" in kwargs else args[1]
            return torch._softmax(args[0], dim, True)
        return pass_on(func, args, kwargs)


@contextmanager
def patched_forward(module: torch.nn.Module, forward: Any) -> Iterator[None]:
    """Inside the block the module runs `forward`; an earlier patch is restored afterwards."""
    before = module.__dict__.get("forward")
    module.forward = stands_in(forward)
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextmanager
def _hooks(before: Before, after: After) -> Iterator[None]:
    handles = (
        torch_module.register_module_forward_pre_hook(before),
        torch_module.register_module_forward_hook(after),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output_head(model: torch.nn.Module) -> torch.nn.Linear | None:
    getter: Any = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    return head if isinstance(head, torch.nn.Linear) else None
