"""The checkpoint that a job saves: every tensor with its type and shape, and the files that hold them, to the byte.

safetensors writes a length, a JSON object that names the tensors, and the tensors: by type, the widest first, then by
name (safetensors/src/tensor.rs `prepare`, 0.8). huggingface_hub serialization/_base.py
`split_state_dict_into_shards_factory` fills one file after the other.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from planner.compress.binding import make_program
from planner.errors import UnsupportedError
from planner.formats.compressed_schemes import Storage, module_tensors, storage_of
from planner.job import Job
from planner.recipe.specs import QuantArgs, Recipe, Scheme
from planner.recipe.targets import LinearModule

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

# In the order of safetensors' Dtype: of two types, the later one is written first.
WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
RANK = {name: number for number, name in enumerate(WIDTHS)}
FLOATS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
SCALES = {"float8_e4m3fn": "F8_E4M3", "uint8": "U8", "int8": "I8", **FLOATS}
METADATA = {"__metadata__": {"format": "pt"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTensor:
    """One tensor of a safetensors file."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * WIDTHS[self.type]


def saved_tensors(graph: "ModelGraph", recipe: Recipe, job: Job) -> tuple[SavedTensor, ...]:
    """Every tensor that `save_pretrained` writes, tied ones once, in the order of the model.

    Raises UnsupportedError for scales of keys and values (kv_cache_scheme), and where a scheme cannot be saved.
    """
    if any(spec.kv_cache for spec in recipe.modifiers):
        raise UnsupportedError(f"{recipe.name}: the scales of kv_cache_scheme are not among the tensors that are sized")
    program, _ = make_program(graph, recipe, job)
    targeted = {m.name: m for run in program.runs for u in run.units for m in u.named() if m.scheme is not None}
    found: list[SavedTensor] = []
    for unit in graph.units:
        for parameter in graph.structures[unit.structure].parameters:
            name = unit.name + parameter.name
            module = targeted.get(name.removesuffix(".weight"))
            if module is not None and name.endswith(".weight") and not parameter.tied:
                found += compressed_tensors(module, job.dtype)
            elif not parameter.tied:
                found.append(SavedTensor(name=name, type=FLOATS[parameter.dtype], shape=parameter.shape))
    return (*found, *_untied_head(graph, targeted, job))


def _untied_head(graph: "ModelGraph", targeted: dict[str, LinearModule], job: Job) -> Iterator[SavedTensor]:
    """compressed_tensors_utils.py `_retie_embeddings`: head and table are one tensor again only if both are equal."""
    head, table = targeted.get(graph.head), targeted.get(graph.embedding)
    if not graph.tied_embeddings or (head and head.scheme) == (table and table.scheme):
        return
    if head is not None:
        yield from compressed_tensors(head, job.dtype)
    elif table is not None:
        yield SavedTensor(name=f"{graph.head}.weight", type=FLOATS[job.dtype], shape=(table.rows, table.columns))


def compressed_tensors(module: LinearModule, dtype: str) -> Iterator[SavedTensor]:
    """What one compressed module is written as; its bias is a tensor of its own."""
    scheme = module.scheme
    assert scheme is not None
    storage = storage_of(scheme)
    for name, size in module_tensors(module.rows, module.columns, scheme, module.itemsize).items():
        kind = _type(name, storage, scheme, dtype)
        shape = _shape(name, size // WIDTHS[kind], module, scheme.weights)
        yield SavedTensor(name=f"{module.name}.{name}", type=kind, shape=shape)


def _type(name: str, storage: Storage, scheme: Scheme, dtype: str) -> str:
    match name:
        case "weight":
            kind = scheme.weights.type if scheme.weights and storage != "dense" else ""
            return {"float": "F8_E4M3", "int": "I8"}.get(kind, FLOATS[dtype])
        case "weight_packed":
            return "I32" if storage == "pack-quantized" else "U8"
        case "weight_shape":
            return "I64"
        case "weight_scale" if storage.startswith(("nvfp", "mxfp")):
            return SCALES[scheme.weights.scale_dtype or "uint8"] if scheme.weights else "U8"
    if name.endswith("global_scale"):
        return "F32"
    if name.endswith("zero_point"):
        return "I32" if storage == "pack-quantized" and name == "weight_zero_point" else "I8"
    return FLOATS[dtype]


def _shape(name: str, count: int, module: LinearModule, weights: QuantArgs | None) -> tuple[int, ...]:
    """Sides of a tensor of `count` elements."""
    if name == "weight":
        return module.rows, module.columns
    if name == "weight_packed":
        return module.rows, count // module.rows
    if name not in ("weight_scale", "weight_zero_point") or weights is None or weights.strategy == "tensor":
        return (count,)
    if weights.strategy == "block":
        high = (weights.block_structure or (128, 128))[0]
        blocks = -(-module.rows // high)
        return blocks, count // blocks
    if name == "weight_zero_point":  # packed along the rows, if at all
        groups = -(-module.columns // (weights.group_size or module.columns))
        return count // groups, groups
    return module.rows, count // module.rows


# ---------------------------------------------------------------------- files
def shards(tensors: Iterable[SavedTensor], most: int) -> list[list[SavedTensor]]:
    """The tensors of each file: a file is full when the next tensor would make it larger than `most` bytes."""
    files: list[list[SavedTensor]] = []
    size = 0
    for tensor in tensors:
        if not files or size + tensor.bytes > most:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += tensor.bytes
    return files


def header_bytes(tensors: Sequence[SavedTensor], metadata: Mapping[str, object] = METADATA) -> int:
    """The length and the names at the beginning of a safetensors file, filled up to whole 8 bytes."""
    table: dict[str, object] = dict(metadata)
    offset = 0
    for tensor in sorted(tensors, key=lambda each: (-RANK[each.type], each.name)):
        end = offset + tensor.bytes
        table[tensor.name] = {"dtype": tensor.type, "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    length = len(json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8
