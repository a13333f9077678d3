"""The checkpoint that a job saves: every tensor with its type and shape, and the files that hold them, to the byte.

safetensors writes a length, a JSON object that names the tensors, and the tensors: by type, the widest first, then by
name (safetensors/src/tensor.rs `prepare`, 0.8). huggingface_hub serialization/_base.py
`split_state_dict_into_shards_factory` fills one file after the other.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from planner.compress.program import Program
from planner.errors import UnsupportedError
from planner.formats.compressed_schemes import Storage, module_tensors, storage_of
from planner.job import Job
from planner.recipe.specs import QuantArgs, Scheme
from planner.recipe.targets import LinearModule
from planner.upstream import REAP_ROUTER_ATTRS

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


class SavedTensor(NamedTuple):
    """One tensor of a safetensors file. A tuple: a mixture of experts has a hundred thousand of them."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * WIDTHS[self.type]


def saved_tensors(graph: "ModelGraph", program: Program, job: Job) -> tuple[SavedTensor, ...]:
    """Every tensor that `save_pretrained` writes, tied ones once, in the order of the model.

    The program is bound to this graph. Raises UnsupportedError for scales of keys and values (kv_cache_scheme), and
    where a scheme cannot be saved.
    """
    if cached := next((run.spec for run in program.runs if run.spec.kv_cache), None):
        raise UnsupportedError(
            f"{cached.where}: the scales of kv_cache_scheme are not among the tensors that are sized"
        )
    for run in program.runs:
        run.spec.check_result(graph.module_refs())
    targeted = {name: module for name, (_, module) in program.with_schemes.items()}
    counts = (run.spec.experts_left(graph.facts) for run in program.runs)
    left = next((count for count in counts if count is not None), None)
    written = _Written(job.dtype)
    found: list[SavedTensor] = []
    for unit in graph.units:
        for parameter in graph.structures[unit.structure].parameters:
            name = unit.name + parameter.name
            if any(run.spec.removes(name) for run in program.runs):
                continue
            module = targeted.get(name.removesuffix(".weight"))
            if module is not None and name.endswith(".weight") and not parameter.tied:
                found += written.of(name.removesuffix(".weight"), module)
            elif not parameter.tied:
                loses_rows = left is not None and parameter.shape[0] == graph.facts.experts and is_of_router(name)
                shape = (left, *parameter.shape[1:]) if left is not None and loses_rows else parameter.shape
                found.append(SavedTensor(name, FLOATS[parameter.dtype], shape))
    return (*found, *_untied_head(graph, program, targeted, written), *_added(graph, program, job))


def _added(graph: "ModelGraph", program: Program, job: Job) -> Iterator[SavedTensor]:
    """What modifiers leave in the model beside its own. Where each has its own pipeline, the later ones train what the
    earlier ones left."""
    modules = graph.module_refs()
    for number, run in enumerate(program.runs):
        others = program.runs[number + 1 :] if job.pipeline == "independent" else program.runs
        trained = tuple(program.tuned) if any(other.spec.trains for other in others) else ()
        later = (name for other in program.runs[number + 1 :] for name in other.spec.parts(modules))
        tensors = run.spec.added(modules, on_gpu=job.offloads_on_gpu, trained=trained, replaced=frozenset(later))
        yield from (SavedTensor(*tensor) for tensor in tensors)


def is_of_router(name: str) -> bool:
    """A tensor with a row for each expert: reap/utils.py `_prune_router`, and `prune_moe_layer` of a bias beside it."""
    module, _, parameter = name.rpartition(".")
    return module.rpartition(".")[2] in REAP_ROUTER_ATTRS or parameter == "e_score_correction_bias"


def _untied_head(
    graph: "ModelGraph", program: Program, targeted: dict[str, LinearModule], written: "_Written"
) -> Iterator[SavedTensor]:
    """compressed_tensors_utils.py `_retie_embeddings`: head and table are one tensor again only if both are equal, in
    their scheme and in what modifiers have written into them once they were two."""
    head, table = targeted.get(graph.head), targeted.get(graph.embedding)
    is_equal = (head and head.scheme) == (table and table.scheme) and not _writes_ends(graph, program)
    if not graph.tied_embeddings or is_equal:
        return
    if head is not None:
        yield from written.of(graph.head, head)
    else:
        unit = next(unit for unit in graph.units if unit.name == graph.embedding)
        (weight,) = (each for each in graph.structures[unit.structure].parameters if each.name == ".weight")
        yield SavedTensor(f"{graph.head}.weight", FLOATS[written.dtype], weight.shape)


def _writes_ends(graph: "ModelGraph", program: Program) -> bool:
    """A modifier unties the two and writes one of them: both get something else where it writes both."""
    ends = {graph.head, graph.embedding}
    writing = (run for run in program.runs if run.unties_embeddings and run.spec.rewrites_weights)
    return any(module.name in ends for run in writing for unit in run.units for module in unit.named())


class _Written:
    """What compressed modules are written as, worked out once for those that are alike."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._known: dict[tuple[int, ...], tuple[SavedTensor, ...]] = {}

    def of(self, name: str, module: LinearModule) -> list[SavedTensor]:
        """The tensors of this one; its bias is a tensor of its own."""
        key = id(module.scheme), module.rows, module.columns, module.itemsize
        if key not in self._known:
            self._known[key] = tuple(compressed_tensors(module, self.dtype))
        return [SavedTensor(f"{name}.{tensor}", kind, shape) for tensor, kind, shape in self._known[key]]


def compressed_tensors(module: LinearModule, dtype: str) -> Iterator[SavedTensor]:
    """What a compressed module is written as, by the names of its parameters."""
    scheme = module.scheme
    assert scheme is not None
    storage = storage_of(scheme)
    for name, size in module_tensors(module.rows, module.columns, scheme, module.itemsize).items():
        kind = _type(name, storage, scheme, dtype)
        yield SavedTensor(name, kind, _shape(name, size // WIDTHS[kind], module, scheme.weights))


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
        nbytes = tensor.bytes
        if not files or size + nbytes > most:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += nbytes
    return files


def header_bytes(tensors: Sequence[SavedTensor], metadata: Mapping[str, object] = METADATA) -> int:
    """The length and the names at the beginning of a safetensors file, filled up to whole 8 bytes."""
    return file_bytes(tensors, metadata)[1]


def file_bytes(tensors: Iterable[SavedTensor], metadata: Mapping[str, object] = METADATA) -> tuple[int, int]:
    """Of a safetensors file: bytes of its tensors, and its `header_bytes`. No name is written twice.

    The header is counted, not written: a mixture of experts has a hundred thousand tensors of a few shapes.
    """
    by_kind: dict[str, list[SavedTensor]] = defaultdict(list)
    for tensor in tensors:
        by_kind[tensor.type].append(tensor)
    names = [name for group in by_kind.values() for name, _, _ in group]
    length, offset = len(_json(dict(metadata) | dict.fromkeys(names, 0))), 0
    for kind in sorted(by_kind, key=RANK.__getitem__, reverse=True):
        known: dict[tuple[int, ...], tuple[int, int]] = {}
        for _, _, shape in sorted(by_kind[kind]):
            size = known.get(shape)
            if size is None:
                entry = _json({"dtype": kind, "shape": shape, "data_offsets": (0, 0)})
                size = known[shape] = prod(shape) * WIDTHS[kind], len(entry) - len("000")  # its zeros, and the name's
            length += size[1] + len(str(offset))
            offset += size[0]
            length += len(str(offset))
    return offset, 8 + -(-length // 8) * 8


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
