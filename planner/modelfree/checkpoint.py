"""A checkpoint as model_free_ptq sees it: files of named tensors. Nothing here knows a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from planner.sizing.saved import SavedTensor

TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
"""What safetensors calls a type, and what PyTorch does: compressed_tensors utils/safetensors_load.py
str_to_torch_dtype."""
FLOATING = ("F64", "F32", "F16", "BF16")
"""Types whose weights can be quantized: torch.nn.Linear initializes no other one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Files of a checkpoint, in the order in which they are processed, and the order of the tensors in its index."""

    name: str
    files: Mapping[str, tuple[SavedTensor, ...]]
    """Tensors by the name of their file, each file's in the order of the index."""
    has_index: bool
    other_bytes: int = 0
    """Files beside the safetensors, which are copied."""
    assumed: str | None = None
    """Where the files come from if nobody looked at any; None for files that were read."""

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.bytes for tensors in self.files.values() for tensor in tensors)


def split_name(tensor: str) -> tuple[str, str]:
    """Module and parameter of a tensor's name."""
    module, _, parameter = tensor.rpartition(".")
    return module, parameter


def in_files(tensors: Iterable[SavedTensor], most: int) -> dict[str, tuple[SavedTensor, ...]]:
    """The files that `save_pretrained` makes of the tensors: one is full when the next would pass `most` bytes.

    huggingface_hub serialization/_base.py `split_state_dict_into_shards_factory`: a tensor larger than that has a file
    of its own, and the others go on in the file that was open.
    """
    full: list[list[SavedTensor]] = []
    current: list[SavedTensor] = []
    size = 0
    for tensor in tensors:
        if tensor.bytes > most:
            full.append([tensor])
            continue
        if size + tensor.bytes > most:
            full.append(current)
            current, size = [], 0
        current.append(tensor)
        size += tensor.bytes
    if current:
        full.append(current)
    names = ["model.safetensors"]
    if len(full) > 1:
        names = [f"model-{number:05d}-of-{len(full):05d}.safetensors" for number in range(1, len(full) + 1)]
    return {name: tuple(sorted(file, key=lambda t: t.name)) for name, file in zip(names, full, strict=True)}
