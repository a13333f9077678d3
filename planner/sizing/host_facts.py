"""What a model, a recipe and a job mean for RAM: which weights a step reads first, which it writes, what save makes.

Pure: from the graph and the recipe as planner.compress.binding resolves them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from planner.compress.parts import EXPERTS
from planner.compress.program import Program, cut
from planner.errors import UnsupportedError
from planner.formats.compressed_schemes import Storage, module_tensors, storage_of
from planner.job import Job
from planner.models.touched import first_touches
from planner.recipe.targets import LinearModule

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedModule:
    """One module that save compresses."""

    weight_bytes: int
    """The weight that its copy replaces."""
    copy_bytes: int
    """What is made anew; scales and zero points stay the tensors that they are."""
    transient_bytes: int
    """Temporaries at the copy's highest moment, without the copy."""
    largest_block: int
    """The largest of the temporaries."""
    is_packed: bool
    """The copy is made of int32 that are four times its values."""
    unit: str
    """The onload unit that it is a part of."""
    is_expert: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgraphReads:
    """Views of files that this subgraph reads, and those that it writes, by onload unit.

    Read here and in no earlier one; the token embedding, and experts that are no view of a file, left out.
    """

    reads: Mapping[str, int]
    writes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostModel:
    """A model and a job, as RAM sees them."""

    weight_bytes: int
    """All parameters and buffers in the job's dtype, tied ones once."""
    itemsize: int
    embedding_bytes: int
    """The token embedding, of which a step reads rows; 0 without one."""
    experts_bytes: int
    """Routed experts."""
    layer_experts_bytes: int
    """Those of the layer that has most."""
    is_converted: bool
    """The experts are loaded fused, and `oneshot` makes Linears of them."""
    subgraphs: tuple[SubgraphReads, ...]
    """As the sequential pipeline cuts them."""
    written_bytes: int
    """Views of files that the recipe writes, in place or anew, each once for either, and"""
    written_first: int
    """those of them that it writes before the first sample, in place: what `reads` and `embedding_bytes` leave out."""
    is_trained: bool
    """What is written while samples pass is written anew, and the views of the files stay."""
    untied_bytes: int
    """A head that is made beside a model whose head was its embedding."""
    compressed: tuple[CompressedModule, ...]
    """In the order of `named_modules`."""
    units: tuple[tuple[str, int], ...]
    """Onload units and their bytes, in the order of the model."""
    embedding: str
    """The unit that is the token embedding."""
    largest_layer: int
    """Bytes of the largest decoder layer."""
    modules: int
    """All of them: each is some objects of Python."""
    large_views: tuple[int, ...]
    """Bytes of each view of a file that is at least a page; those that are smaller share their neighbours'."""
    intermediate_size: int
    """Width of the decoder's MLP, as its widest Linear says; 256 without one (dispatch_model's own default)."""
    pinned_batch_bytes: int
    """One collated calibration batch in pinned memory: each tensor in a block of the next power of two
    (c10 CachingHostAllocator)."""
    tokens: int
    """Of all samples."""

    def embedding_read(self, fault_bytes: int) -> int:
        """Bytes of the embedding that all samples read, where one read brings so many bytes of the file.

        As for tokens drawn evenly from the vocabulary, which read the most: any other distribution meets fewer
        windows on average (the expected number of distinct draws is Schur-concave).
        """
        windows = max(1, self.embedding_bytes // fault_bytes)
        return int(self.embedding_bytes * (1 - exp(-self.tokens / windows)))


def host_model(graph: "ModelGraph", program: Program, job: Job) -> HostModel:
    """The facts of one job; the program is bound to this graph. Raises UnsupportedError where a result cannot be
    sized."""
    views = _views(graph)
    experts = {unit.name: _experts(graph, unit.structure) for unit in graph.units}
    written = {name: size for name, size in _written(program).items() if name in views}
    trained = {name: size for name, size in _trained(program).items() if name in views}
    first = _written(program, first=True).keys() & written.keys()
    later = {name: size for name, size in written.items() if name not in first} | trained
    embedding = f"{graph.embedding}.weight"
    return HostModel(
        weight_bytes=program.weight_bytes,
        itemsize=graph.itemsize,
        embedding_bytes=0 if embedding in first else views.get(embedding, 0),
        experts_bytes=sum(experts.values()),
        layer_experts_bytes=max(experts.values(), default=0),
        is_converted=graph.fused_expert_bytes > 0,
        subgraphs=_reads(graph, job, {name: 0 if name in first else size for name, size in views.items()}, later),
        written_bytes=sum(written[name] for name in first) + sum(later.values()),
        written_first=sum(written[name] for name in first),
        is_trained=bool(trained),
        untied_bytes=program.embedding_bytes if program.tied and any(r.unties_embeddings for r in program.runs) else 0,
        compressed=tuple(_compressed(program)),
        units=tuple((unit.name, unit.bytes) for unit in graph.units),
        embedding=graph.embedding,
        largest_layer=max((unit.bytes for unit in graph.units if unit.kind == "decoder"), default=0),
        modules=len(graph.module_refs()),
        large_views=tuple(size for size in views.values() if size >= PAGE),
        intermediate_size=_intermediate_size(graph),
        pinned_batch_bytes=sum(next_power_of_two(c.bytes) for c in program.trace.crossings.values() if c.producer < 0),
        tokens=job.samples * job.seq_len,
    )


def next_power_of_two(nbytes: int) -> int:
    """The smallest power of two that is not below `nbytes`."""
    return 1 << (nbytes - 1).bit_length() if nbytes else 0


def _intermediate_size(graph: "ModelGraph") -> int:
    widths = (
        module.rows
        for unit in graph.units
        if unit.kind == "decoder"
        for module in graph.structures[unit.structure].modules
        if module.itemsize and "Linear" in module.classes
    )
    return max(widths, default=256)


def _views(graph: "ModelGraph") -> dict[str, int]:
    """Weights that are views of the checkpoint's files, by name: all but experts that were fused and spread out."""
    return {
        unit.name + parameter.name: parameter.bytes
        for unit in graph.units
        for parameter in graph.structures[unit.structure].parameters
        if not parameter.tied and not (graph.fused_expert_bytes and EXPERTS in parameter.name)
    }


def _experts(graph: "ModelGraph", structure: int) -> int:
    return sum(p.bytes for p in graph.structures[structure].parameters if EXPERTS in p.name and not p.tied)


def _written(program: Program, *, first: bool = False) -> dict[str, int]:
    """Weights that a modifier writes in place, by name: compressed_tensors offload/cache/cpu.py update_offload copies
    into them. Rounding to nearest leaves them alone. `first`: those that are written before the first sample."""
    return {
        f"{unit.unit}{module.name}.weight": module.weight_bytes
        for run in program.runs
        if run.spec.rewrites_weights and not run.spec.trains and (run.spec.rewrites_first or not first)
        for unit in run.units
        for module in unit.modules
    }


def _trained(program: Program) -> dict[str, int]:
    """All weights of layers that AutoRound trains, by name: auto_round utils/model.py mv_module_from_gpu makes new
    tensors of them on the CPU. Not measured. On the CPU it trains them where they are, and their pages of the file are
    planned as if they stayed."""
    return {
        layer + name: nbytes
        for layer, block in program.tuned.items()
        for name, nbytes in zip(block.names, block.weights, strict=False)  # toys have no names
    }


def _reads(graph: "ModelGraph", job: Job, views: dict[str, int], written: dict[str, int]) -> tuple[SubgraphReads, ...]:
    of_segment = {
        segment: number
        for number, subgraph in enumerate(cut(graph.trace, job.targets_per_subgraph))
        for segment in subgraph.segments
    }
    units = {unit.name + p.name: unit.name for unit in graph.units for p in graph.structures[unit.structure].parameters}
    count = max(of_segment.values(), default=0) + 1
    read: list[Counter[str]] = [Counter() for _ in range(count)]
    wrote: list[Counter[str]] = [Counter() for _ in range(count)]
    for name, segment in first_touches(graph.trace).items():
        if name not in views:
            continue
        number, unit = of_segment[segment], units[name]
        wrote[number][unit] += written.get(name, 0)
        if name != f"{graph.embedding}.weight":
            read[number][unit] += views[name]
    return tuple(SubgraphReads(reads=r, writes=w) for r, w in zip(read, wrote, strict=True))


# ---------------------------------------------------------------------- what save makes
def _compressed(program: Program) -> list[CompressedModule]:
    """Every module that ends with a scheme, once: compressed_tensors compressors/base.py compress_module."""
    known: dict[tuple[object, ...], CompressedModule] = {}
    found = []
    for name, (unit, module) in program.with_schemes.items():
        is_expert = EXPERTS in f"{name}."
        key = unit, is_expert, module.rows, module.columns, module.itemsize, id(module.scheme)
        if key not in known:  # the experts of a layer are equal
            known[key] = _copy(module, unit, is_expert)
        found.append(known[key])
    return found


def _copy(module: LinearModule, unit: str, is_expert: bool) -> CompressedModule:
    assert module.scheme is not None
    storage = storage_of(module.scheme)
    tensors = module_tensors(module.rows, module.columns, module.scheme, module.itemsize)
    copies = sum(size for name, size in tensors.items() if name in ("weight", "weight_packed", "weight_shape"))
    if storage.startswith(("mxfp", "nvfp")):  # their scales are made anew, narrower
        copies += tensors.get("weight_scale", 0)
    if storage == "dense":
        copies = 0
    return CompressedModule(
        weight_bytes=module.weight_bytes,
        copy_bytes=copies,
        transient_bytes=_transient(module, storage, copies),
        largest_block=max(module.weight_bytes, 4 * module.rows * module.columns if storage == "pack-quantized" else 0),
        is_packed=storage == "pack-quantized",
        unit=unit,
        is_expert=is_expert,
    )


def _transient(module: LinearModule, storage: Storage, copies: int) -> int:
    """Temporaries beside the copy at the highest moment of `compress`."""
    elements, weight = module.rows * module.columns, module.weight_bytes
    match storage:
        case "dense":
            return 0
        case "pack-quantized":
            # pack_quantized/helpers.py pack_to_int32: the int8 values, all of them as int32, and shifted once more
            return elements + 4 * elements + 4 * elements
        case "int-quantized" | "float-quantized" | "naive-quantized":
            # quantization/lifecycle/forward_helpers.py _quantize: `scaled`, its clamped copy and the rounded one
            return max(0, 3 * weight - copies)
        case "nvfp4-pack-quantized" | "mxfp4-pack-quantized" | "mxfp8-quantized":
            return 4 * weight
        case _:
            raise UnsupportedError(f"planner does not know what compressing to {storage} takes")
