"""The tensors of a model's checkpoint, under the names that the Hub has them by: what `save_pretrained` would write."""

from collections.abc import Iterator
from typing import Any

import torch

from planner.errors import ModelError
from planner.job import Build
from planner.models.build import quiet
from planner.models.load import load_built
from planner.models.source import Named

SavedShape = tuple[str, tuple[int, ...], str]
"""Name, shape, and PyTorch's name of the type without `torch.`."""


def saved_shapes(model: Named, build: Build) -> tuple[str, tuple[SavedShape, ...], tuple[str, ...]]:
    """The model's name; every tensor, tied ones once; and in words what the checkpoint has beside them.

    transformers core_model_loading.py `revert_weight_conversion` spells names as the checkpoint does, and spreads fused
    experts out where it has one tensor for each. Raises ModelError where the model cannot be built.
    """
    built = load_built(model, build)
    from transformers import core_model_loading

    try:
        with quiet():
            module: Any = built.module
            reverted = core_model_loading.revert_weight_conversion(module, dict(_own(module)))
    except (RuntimeError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{built.source.name}: transformers cannot spell its checkpoint's names: {error}") from error
    shapes = (
        (name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in reverted.items()
    )
    return built.source.name, tuple(shapes), built.source.not_loaded


def _own(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers that are saved, each storage under its first name."""
    first = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    yield from ((name, tensor) for name, tensor in module.state_dict().items() if name in first)
