"""Transforms that stay in a layer while it is trained: compressed_tensors transform/factory/{base,hadamard}.py.

Each has a matrix of its own by then: autoround/base.py `suspend_offloading` gives every module its own tensors.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from planner.models.failures import pass_on, stands_in
from planner.models.tuned import LeftMatrix, OnlineRotation, alone


class RunningTransform(torch.nn.Module):
    """hadamard.py HadamardTransform: a value times the matrix, whose rows and columns may be put in another order.
    A random one's product is not scaled."""

    def __init__(self, rotation: OnlineRotation, beside: torch.Tensor) -> None:
        super().__init__()
        self.rotation = rotation
        matrix = beside.new_empty((rotation.size, rotation.size), dtype=getattr(torch, rotation.dtype))
        self.weight = torch.nn.Parameter(matrix, requires_grad=False)
        order = beside.new_empty(rotation.size, dtype=torch.int64) if rotation.permutes else None
        self.perm = None if order is None else torch.nn.Parameter(order, requires_grad=False)
        self.scale = torch.tensor(float(rotation.size), dtype=torch.float64).sqrt()

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        if not self.rotation.scales:
            return self._product(value).to(value.dtype)
        rotated: torch.Tensor = (self._product(value) / self.scale).to(value.dtype)
        return rotated

    def _product(self, value: torch.Tensor) -> torch.Tensor:
        """transform/utils/matrix.py `_multihead_matmul` of what is as wide as the matrix, or several times as wide."""
        weight = self.weight if self.perm is None else self.weight[self.perm][:, self.perm]
        weight = weight.T if self.rotation.inverse else weight
        wide, size = value.to(weight.dtype), self.rotation.size
        if wide.shape[-1] == size:
            return wide @ weight
        return (wide.view(*wide.shape[:-1], wide.shape[-1] // size, size) @ weight).flatten(-2, -1)


def left_there(block: torch.nn.Module) -> Iterator[LeftMatrix]:
    """The parameters of transforms that are parts of the block, among all of its parameters and buffers."""
    number = 0
    for part in block.modules():
        for name, _ in own_tensors(part):
            if isinstance(part, RunningTransform):
                rotation = part.rotation
                label = rotation.label if name == "weight" else f"{rotation.label} permutation"
                yield LeftMatrix(number=number, label=label, waits=rotation.waits)
            number += 1


def own_tensors(part: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The module's own parameters and buffers, by name."""
    yield from part.named_parameters(recurse=False)
    yield from part.named_buffers(recurse=False)


class RotatingCache:
    """modeling/kvcache.py QuantizedKVCache: nothing is kept, and keys are rotated on the way."""

    def __init__(self, *rotations: RunningTransform) -> None:
        self.rotations = rotations

    def update(self, key: torch.Tensor, value: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
        """QuantizedKVCache.update"""
        for rotation in self.rotations:
            key = rotation(key)
        return key, value


@contextmanager
def rotated(block: torch.nn.Module, rotations: Sequence[OnlineRotation]) -> Iterator[list[RunningTransform]]:
    """Inside, the modules of the block have these transforms as parts, and run them as hooks. Yields those that are no
    parts."""
    anchor = next(block.parameters())
    hidden, partless = alone(rotations), list[RunningTransform]()
    with ExitStack() as stack:
        for number, rotation in enumerate(rotations):
            module = block.get_submodule(rotation.module.removeprefix("."))
            part = RunningTransform(rotation, anchor)
            if number in hidden:
                partless.append(part)
            else:
                module.add_module(rotation.name, part)
                stack.callback(delattr, module, rotation.name)
            handle = _hooked(module, part)
            if handle is not None:
                stack.callback(handle.remove)
        yield partless


def _hooked(module: torch.nn.Module, part: RunningTransform) -> Any:
    """factory/base.py `_apply_to_module`. Queries are not rotated: calibration goes past their hooks."""

    @stands_in
    def before(_module: Any, args: Any) -> Any:
        return part(args[0])

    @stands_in
    def after(_module: Any, _args: Any, output: Any) -> Any:
        return part(output)

    @stands_in
    def cached(_module: Any, args: Any, kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        earlier = cache.rotations if isinstance(cache, RotatingCache) else ()
        return args, {**kwargs, "past_key_values": RotatingCache(*earlier, part)}

    match part.rotation.place:
        case "input":
            return module.register_forward_pre_hook(before, prepend=True)
        case "output":
            return module.register_forward_hook(after)
        case "key":
            return module.register_forward_pre_hook(cached, with_kwargs=True)
        case "query":
            return None


def rotated_inputs(linear: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """auto_round wrapper.py WrapperLinear.forward runs what is hooked before the Linear that it stands for."""
    for hook in linear._forward_pre_hooks.values():
        x = pass_on(hook, (linear, (x,)), {})
    return x


def rotated_outputs(linear: torch.nn.Linear, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The same of what is hooked behind it."""
    for hook in linear._forward_hooks.values():
        output = pass_on(hook, (linear, (x,), output), {})
    return output
