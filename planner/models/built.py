"""A model that is built once and used several times: by the plan, then to size serving the result."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from planner.job import Build
from planner.models.build import build_model
from planner.models.source import ModelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A module tree on the meta device, its experts fused, with what it was built from.

    Code that changes it must restore it: see `unchanged`.
    """

    source: ModelSource
    build: Build
    module: torch.nn.Module


def built_model(source: ModelSource, build: Build) -> BuiltModel:
    """Build the model. Raises ModelError where transformers cannot."""
    return BuiltModel(source=source, build=build, module=build_model(source, build))


@contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Give every module of the model its attributes, tensors and parts back when the block ends.

    Inside, fused experts may be spread out in place, and a forward may leave something behind (Qwen2.5-VL keeps the
    position offsets of the last images: transformers modeling_qwen2_5_vl.py `rope_deltas`).
    """
    before = [
        (vars(module), dict(vars(module)), [(register, dict(register)) for register in _registers(module)])
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for attributes, values, registers in before:
            _refill(attributes, values)
            for register, entries in registers:
                _refill(register, entries)


def _registers(module: torch.nn.Module) -> tuple[dict[str, Any], ...]:
    """Where torch keeps a module's own parameters, buffers and parts (torch/nn/modules/module.py Module.__init__)."""
    attributes = vars(module)
    return attributes["_parameters"], attributes["_buffers"], attributes["_modules"]


def _refill(target: dict[str, Any], values: dict[str, Any]) -> None:
    target.clear()
    target.update(values)
