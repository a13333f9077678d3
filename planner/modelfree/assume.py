"""A checkpoint that nobody has here: tensors from the model's code, in files of the usual size."""

from planner.job import Build
from planner.modelfree.checkpoint import TORCH_NAMES, Checkpoint, in_files
from planner.models.source import Named
from planner.sizing.saved import SavedTensor
from planner.units import GB, format_bytes

SHARD = 5 * GB
"""Bytes of a file: huggingface_hub serialization/_base.py MAX_SHARD_SIZE, and transformers' own default before 5.0."""


def assumed_checkpoint(model: Named, build: Build, shard_bytes: int) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint as `save_pretrained` would write it, and what the real one is known to hold beside it.

    Raises ModelError where the model cannot be built.
    """
    from planner.models.saved_tensors import saved_shapes

    types = {name: kind for kind, name in TORCH_NAMES.items()}
    name, shapes, not_loaded = saved_shapes(model, build)
    tensors = (SavedTensor(name=tensor, type=types[dtype], shape=shape) for tensor, shape, dtype in shapes)
    files = in_files(tensors, shard_bytes)
    text = (
        f"No file of the checkpoint is here: {len(files)} of up to {format_bytes(shard_bytes, 'GB')} are assumed, in "
        f"{build.dtype}. Give its folder, or --shard-size."
    )
    return Checkpoint(name=name, files=files, has_index=len(files) > 1, assumed=text), not_loaded
