"""Checkpoints of round numbers."""

from planner.modelfree.checkpoint import Checkpoint
from planner.sizing.saved import SavedTensor


def bf16(name: str, *shape: int) -> SavedTensor:
    return SavedTensor(name=name, type="BF16", shape=shape)


def checkpoint(*files: tuple[SavedTensor, ...]) -> Checkpoint:
    """Files called a, b, ... with these tensors."""
    named = {f"{letter}.safetensors": file for letter, file in zip("abcdefgh", files, strict=False)}
    return Checkpoint(name="toy", files=named, has_index=len(files) > 1)


def attention(layer: int) -> tuple[SavedTensor, ...]:
    """Projections of 1,024 x 1,024: 2 MiB each."""
    return tuple(bf16(f"model.layers.{layer}.self_attn.{part}_proj.weight", 1024, 1024) for part in "qkv")
