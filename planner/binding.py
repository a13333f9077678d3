"""A recipe onto a model: which module each modifier works on, checked as the library checks it."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from planner.errors import RecipeError
from planner.job import Job
from planner.matching import check_group_sizes, check_targets, resolve, resolve_sparse
from planner.simulation.context import LinearModule
from planner.simulation.forward import full_name
from planner.simulation.modifiers.rtn import qparam_bytes
from planner.simulation.program import Program, Run, UnitTargets
from planner.specs import GPTQSpec, ModifierSpec, QuantizationSpec, Recipe, Scheme, SparseGPTSpec

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph, Unit


def make_program(graph: "ModelGraph", recipe: Recipe, job: Job, notes: list[str]) -> Program:
    """Resolve every modifier onto the model's modules; raises RecipeError as the library would."""
    runs = tuple(_run(graph, spec, job, notes) for spec in recipe.modifiers)
    head = next((u for u in graph.units if u.name == graph.head), None)
    embedding = next((u for u in graph.units if u.name == graph.embedding), None)
    table = embedding.bytes if embedding else 0
    return Program(
        trace=graph.trace,
        runs=runs,
        weight_bytes=graph.bytes + graph.buffer_bytes,
        fused_expert_bytes=graph.fused_expert_bytes,
        qparam_bytes=sum(_qparams(run) for run in runs),
        head_bytes=(table if graph.tied_embeddings else head.bytes) if head else 0,
        embedding_bytes=table,
        tied=graph.tied_embeddings,
    )


def _run(graph: "ModelGraph", spec: ModifierSpec, job: Job, notes: list[str]) -> Run:
    refs = graph.module_refs()
    if isinstance(spec, SparseGPTSpec):
        names = resolve_sparse(spec, refs)
        schemes: dict[str, Scheme] = {}
        notes += check_targets(spec, refs, names)
        chosen = frozenset(names)
    else:
        schemes = resolve(spec, refs)
        notes += check_targets(spec, refs, schemes)
        chosen = frozenset(schemes)
        _check_groups(graph, spec, schemes)
    sparse = isinstance(spec, SparseGPTSpec)
    units = tuple(_unit_targets(graph, chosen, schemes, sparse))
    _check_vision(spec, units, job, notes)
    notes += _failures(spec, units, graph)
    return Run(spec=spec, units=units, unties_embeddings=not sparse and bool({graph.embedding, graph.head} & chosen))


def _check_groups(graph: "ModelGraph", spec: QuantizationSpec, schemes: dict[str, Scheme]) -> None:
    columns = {u.name + m.name: m.columns for u in graph.units for m in graph.weighted(u) if u.name + m.name in schemes}
    check_group_sizes(schemes, columns, spec)


def _unit_targets(
    graph: "ModelGraph", chosen: frozenset[str], schemes: dict[str, Scheme], sparse: bool
) -> Iterable[UnitTargets]:
    """Targeted modules unit by unit; equal units targeted equally share one list of modules."""
    known: dict[object, tuple[int, tuple[LinearModule, ...]]] = {}
    for unit in graph.units:
        hits = tuple((m, schemes.get(unit.name + m.name)) for m in graph.weighted(unit) if unit.name + m.name in chosen)
        if not hits:
            continue
        key = (unit.structure, unit.kind, tuple((m.name, id(scheme)) for m, scheme in hits))
        if key not in known:
            known[key] = (
                len(known),
                tuple(_module(unit, m.name, m.rows, m.columns, m.itemsize, s, sparse) for m, s in hits),
            )
        signature, modules = known[key]
        yield UnitTargets(unit=unit.name, signature=signature, modules=modules, loose=unit.onload != "own subgraph")


def _module(
    unit: "Unit", name: str, rows: int, columns: int, itemsize: int, scheme: Scheme | None, sparse: bool
) -> LinearModule:
    # Subgraph.submodules (pipelines/sequential/helpers.py) lists what the graph calls as modules; what a
    # wrapped function calls (vision tower, projector) is never shown to sequential_epoch_end
    return LinearModule(
        name=name,
        rows=rows,
        columns=columns,
        itemsize=itemsize,
        scheme=scheme,
        sparsify=sparse,
        observed=unit.kind not in ("vision", "projector"),
    )


def _check_vision(spec: ModifierSpec, units: Sequence[UnitTargets], job: Job, notes: list[str]) -> None:
    """Targets inside a wrapped vision tower: the library fails on them, skips them, or never runs them."""
    hidden = [u.unit + m.name for u in units for m in u.modules if not m.observed]
    if not hidden or not spec.requires_calibration_data:
        return
    count = f"{hidden[0]} and {len(hidden) - 1} more" if len(hidden) > 1 else hidden[0]
    if isinstance(spec, GPTQSpec) and job.images:
        raise RecipeError(
            f"targets {count} inside the vision tower, where LLM Compressor stops with 'No statistics available': "
            "it calls the tower inside a wrapped function; add the tower to ignore, e.g. re:.*visual.*",
            spec.where,
        )
    if not job.images:
        notes.append(
            f"{spec.type} targets {count} in the vision tower; text-only samples never run it: they stay as they are."
        )
    elif isinstance(spec, QuantizationSpec):
        notes.append(
            f"{spec.type} targets {count} in the vision tower, but LLM Compressor never computes "
            "their weight scales: add the tower to ignore."
        )


def _failures(spec: ModifierSpec, units: Sequence[UnitTargets], graph: "ModelGraph") -> Iterator[str]:
    """Jobs that the library starts and does not finish: the plan says so beside its numbers."""
    if isinstance(spec, SparseGPTSpec):
        if spec.offload_hessians:
            # sgpt_sparsify.py sparsify_weight divides a GPU tensor by the CPU Hessian's diagonal
            yield (
                "This job fails in LLM Compressor: with offload_hessians, SparseGPT compresses with the Hessian on the "
                "CPU and the weight on the GPU ('Expected all tensors to be on the same device'). Leave it out."
            )
        names = {u.unit + m.name for u in units for m in u.modules}
        deep = next((c for c in _deep_calls(graph) if c in names), None)
        if deep is not None:
            # sgpt_sparsify.py accumulate_hessian, unlike GPTQ's, flattens inputs of 3 dimensions at most
            yield (
                f"This job fails in LLM Compressor: SparseGPT cannot take the input of {deep}, which has more than "
                "3 dimensions ('t() expects a tensor with <= 2 dimensions'). Add it to ignore."
            )
    if isinstance(spec, QuantizationSpec) and spec.kv_cache is not None:
        yield (
            "kv_cache_scheme: its observers copy one layer's keys or values at a time; "
            "these temporaries are not counted."
        )


def _deep_calls(graph: "ModelGraph") -> Iterator[str]:
    """Full names of modules whose input has more than three dimensions."""
    for segment in graph.trace.segments:
        for event in segment.events:
            if event.kind == "exit" and event.call is not None and len(event.call.dims) > 3:
                yield full_name(segment.target, event.call.module)


def _qparams(run: Run) -> int:
    """CPU bytes of the qparams that initialize_quantization registers."""
    sums = cache(lambda signature: sum(map(qparam_bytes, first[signature].modules)))
    first = {unit.signature: unit for unit in reversed(run.units)}
    return sum(sums(unit.signature) for unit in run.units)
