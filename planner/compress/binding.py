"""A recipe onto a model: which module each modifier works on, checked as the library checks it."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from planner.compress.forward import full_name
from planner.compress.observers import siblings_of
from planner.compress.program import Program, Run
from planner.errors import RecipeError
from planner.job import Job
from planner.recipe.matching import check_group_sizes, check_targets, resolve, resolve_sparse
from planner.recipe.qparams import qparam_bytes
from planner.recipe.specs import GPTQSpec, ModifierSpec, QuantizationSpec, Recipe, Scheme, SparseGPTSpec
from planner.recipe.targets import LinearModule, UnitTargets

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph, ModuleInfo, Unit

CACHE_OBSERVERS = (
    "kv_cache_scheme: its observers copy one layer's keys or values at a time; these temporaries are not counted."
)
"""Of a job's memory alone: nothing that a served model's notes need."""


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
    units = tuple(_unit_targets(graph, spec, chosen, schemes))
    _check_hidden(spec, units, graph, job, notes)
    notes += _failures(spec, units, graph)
    return Run(
        spec=spec,
        units=units,
        unties_embeddings=not isinstance(spec, SparseGPTSpec) and bool({graph.embedding, graph.head} & chosen),
    )


def _check_groups(graph: "ModelGraph", spec: QuantizationSpec, schemes: dict[str, Scheme]) -> None:
    columns = {u.name + m.name: m.columns for u in graph.units for m in graph.weighted(u) if u.name + m.name in schemes}
    check_group_sizes(schemes, columns, spec)


def _unit_targets(
    graph: "ModelGraph", spec: ModifierSpec, chosen: frozenset[str], schemes: dict[str, Scheme]
) -> Iterable[UnitTargets]:
    """Targeted modules unit by unit; equal units targeted equally share one list of modules."""
    known: dict[object, tuple[int, tuple[LinearModule, ...]]] = {}
    for unit in graph.units:
        hits = tuple(
            (m, schemes.get(unit.name + m.name), _is_observed(unit, unit.name + m.name, graph))
            for m in graph.weighted(unit)
            if unit.name + m.name in chosen
        )
        if not hits:
            continue
        key = (unit.structure, unit.kind, tuple((m.name, id(scheme), seen) for m, scheme, seen in hits))
        if key not in known:
            _check_fused(unit, {m.name: scheme for m, scheme, _ in hits}, graph, spec)
            sparse = isinstance(spec, SparseGPTSpec)
            known[key] = (len(known), tuple(_module(m, scheme, sparse, seen) for m, scheme, seen in hits))
        signature, modules = known[key]
        yield UnitTargets(unit=unit.name, signature=signature, modules=modules, loose=unit.onload != "own-subgraph")


def _module(info: "ModuleInfo", scheme: Scheme | None, sparse: bool, observed: bool) -> LinearModule:
    return LinearModule(
        name=info.name,
        rows=info.rows,
        columns=info.columns,
        itemsize=info.itemsize,
        scheme=scheme,
        sparsify=sparse,
        embedding="Embedding" in info.classes,
        observed=observed,
    )


def _is_observed(unit: "Unit", name: str, graph: "ModelGraph") -> bool:
    """Subgraph.submodules (pipelines/sequential/helpers.py) lists what the traced graph calls as modules:
    not what a wrapped function calls, such as the vision tower."""
    return unit.kind not in ("vision", "projector") and name not in graph.trace.wrapped


def _check_fused(unit: "Unit", schemes: dict[str, Scheme | None], graph: "ModelGraph", spec: ModifierSpec) -> None:
    """observers/helpers.py fuse_weight_observers: fused siblings share a global scale, or none of them has one."""
    names = frozenset(m.name for m in graph.weighted(unit))
    for name, scheme in schemes.items():
        if not _has_global_scale(scheme):
            continue
        odd = [n for n in siblings_of(name, names) if not _has_global_scale(schemes.get(n))]
        if odd:
            raise RecipeError(
                f"{unit.name}{name} gets a scheme with a global scale and {unit.name}{odd[0]} does not; LLM Compressor "
                "refuses that, because served models fuse them: target both alike, or ignore both",
                spec.where,
            )


def _has_global_scale(scheme: Scheme | None) -> bool:
    return scheme is not None and scheme.weights is not None and scheme.weights.strategy == "tensor_group"


def _check_hidden(
    spec: ModifierSpec, units: Sequence[UnitTargets], graph: "ModelGraph", job: Job, notes: list[str]
) -> None:
    """Targets that the traced graph does not show: the library fails on them, skips them, or never runs them."""
    hidden = [(u.unit + m.name, m.embedding) for u in units for m in u.modules if not m.observed]
    if not hidden or not spec.requires_calibration_data or isinstance(spec, SparseGPTSpec):
        return
    run = [(name, e) for name, e in hidden if job.images or name in graph.trace.wrapped]
    hooked = [name for name, embedding in run if not embedding]
    if isinstance(spec, GPTQSpec) and hooked:
        raise RecipeError(
            f"targets {few_more(hooked)}, which LLM Compressor calls inside a wrapped function: it hooks them, never "
            "observes their weights, and stops with 'No statistics available'; add them to ignore, "
            f"e.g. {_ignore_for(hooked[0])}",
            spec.where,
        )
    idle = [name for name, _ in hidden if not job.images and name not in graph.trace.wrapped]
    if idle:
        notes.append(f"{spec.type} targets {few_more(idle)}, which text-only samples never run: they stay as they are.")
    if run:
        notes.append(
            f"{spec.type} targets {few_more([name for name, _ in run])}, which LLM Compressor calls inside a wrapped "
            "function: their weight scales are never computed. Add them to ignore."
        )


def few_more(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _ignore_for(name: str) -> str:
    """An ignore pattern for the part of the model that `name` lies in."""
    parts = name.split(".")
    tower = next((part for part in parts if "vis" in part or "proj" in part), parts[-1])
    return f"re:.*{tower}.*"


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
        yield CACHE_OBSERVERS


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
