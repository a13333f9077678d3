"""Resolves a recipe onto a model: which modules each modifier works on, checked as the library checks it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from planner.compress.disk import disk_share
from planner.compress.forward import full_name
from planner.compress.program import Program, Run
from planner.job import Job
from planner.notes import Note
from planner.recipe.qparams import qparam_sizes
from planner.recipe.specs import HiddenModule, ModelTraits, ModifierSpec, Recipe, Scheme, Selection
from planner.recipe.targets import LinearModule, UnitTargets

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph, ModuleInfo, Unit


def make_program(graph: "ModelGraph", recipe: Recipe, job: Job) -> tuple[Program, tuple[Note, ...]]:
    """Every modifier resolved onto the model's modules, and notes on what the resolution met.

    Raises RecipeError as the library would.
    """
    facts, modules = _facts(graph), graph.module_refs()
    bound = [_bind(graph, spec.within(facts, modules, recipe.modifiers), job) for spec in recipe.modifiers]
    runs = tuple(run for run, _ in bound)
    head = next((u for u in graph.units if u.name == graph.head), None)
    embedding = next((u for u in graph.units if u.name == graph.embedding), None)
    embedding_bytes = embedding.bytes if embedding else 0
    tensors, disk = _qparam_tensors(runs), disk_share(graph, runs)
    program = Program(
        trace=graph.trace,
        runs=runs,
        weight_bytes=graph.bytes + graph.buffer_bytes,
        fused_expert_bytes=graph.fused_expert_bytes,
        qparam_bytes=sum(nbytes * count for nbytes, count in tensors),
        qparam_tensors=tensors,
        head_bytes=(embedding_bytes if graph.tied_embeddings else head.bytes) if head else 0,
        embedding_bytes=embedding_bytes,
        tied=graph.tied_embeddings,
        head=f"{graph.head}.weight",
        embedding=f"{graph.embedding}.weight",
        fused_linears=graph.fused_linears,
        on_disk=graph.on_disk,
        disk_bytes=disk.weights,
        disk_qparam_bytes=disk.qparams,
        disk_written_bytes=disk.qparams + disk.rewritten,
    )
    return program, tuple(note for _, notes in bound for note in notes)


def _bind(graph: "ModelGraph", spec: ModifierSpec, job: Job) -> tuple[Run, tuple[Note, ...]]:
    """One modifier with its modules, and its notes in the order in which the library would meet their causes."""
    modules = graph.module_refs()
    selection = spec.select(modules)
    checked = tuple(spec.check(modules, selection))
    units = tuple(_unit_targets(graph, selection))
    run = Run(
        spec=spec,
        units=units,
        unties_embeddings=spec.unties_embeddings and not selection.weights.keys().isdisjoint(_ends(graph)),
    )
    hidden = _hidden(units, graph, job) if spec.requires_calibration_data else ()
    notes = (
        *checked,
        *(spec.hidden(hidden) if hidden else ()),
        *spec.failures(_inputs(graph, selection)),
        *spec.uncounted(),
        *_unwatched(graph, spec, selection),
    )
    return run, notes


def _facts(graph: "ModelGraph") -> ModelTraits:
    """modifiers/utils/pytorch_helpers.py is_moe_model: by the classes of the modules, or by the config's fields."""
    is_moe = graph.names_experts or any(
        "MoE" in ref.classes[0] or "Expert" in ref.classes[0] for ref in graph.module_refs() if ref.classes
    )
    return ModelTraits(graph.architecture, is_moe)


def _ends(graph: "ModelGraph") -> set[str]:
    """Names of the embedding and the head; a model may lack either."""
    return {name for name in (graph.embedding, graph.head) if name}


def _unit_targets(graph: "ModelGraph", selection: Selection) -> Iterator[UnitTargets]:
    """Selected modules unit by unit; equal units with an equal selection share one list of modules."""
    by_key: dict[object, tuple[int, tuple[LinearModule, ...]]] = {}
    for unit in graph.units:
        members = [
            (info, selection.weights.get(unit.name + info.name), _is_observed(unit, unit.name + info.name, graph))
            for info in graph.structures[unit.structure].modules
            if _is_selected(info, unit.name + info.name, selection)
        ]
        if not members:
            continue
        key = (
            unit.structure,
            unit.kind,
            tuple((info.name, id(scheme), observed) for info, scheme, observed in members),
        )
        if key not in by_key:
            by_key[key] = (len(by_key), tuple(_module(info, scheme, observed) for info, scheme, observed in members))
        signature, modules = by_key[key]
        yield UnitTargets(unit=unit.name, signature=signature, modules=modules, loose=unit.onload != "own-subgraph")


def _is_selected(info: "ModuleInfo", name: str, selection: Selection) -> bool:
    """A module whose weights the modifier changes must have a weight matrix; one that it watches need not."""
    return (info.itemsize > 0 and name in selection.weights) or name in selection.watched


def _module(info: "ModuleInfo", scheme: Scheme | None, observed: bool) -> LinearModule:
    return LinearModule(
        name=info.name,
        rows=info.rows,
        columns=info.columns,
        itemsize=info.itemsize,
        scheme=scheme,
        embedding="Embedding" in info.classes,
        observed=observed,
    )


def _is_observed(unit: "Unit", name: str, graph: "ModelGraph") -> bool:
    """Subgraph.submodules (pipelines/sequential/helpers.py) lists what the traced graph calls as modules:
    not what a wrapped function calls, such as the vision tower."""
    return unit.kind not in ("vision", "projector") and name not in graph.trace.wrapped


def _hidden(units: Sequence[UnitTargets], graph: "ModelGraph", job: Job) -> tuple[HiddenModule, ...]:
    """Selected modules that the traced graph does not show."""
    named = ((unit.unit + module.name, module) for unit in units for module in unit.modules if not module.observed)
    return tuple(
        HiddenModule(name, module.embedding, runs=bool(job.images) or name in graph.trace.wrapped)
        for name, module in named
    )


def _unwatched(graph: "ModelGraph", spec: ModifierSpec, selection: Selection) -> Iterator[Note]:
    """A note where the forward is estimated: an estimate calls Linears alone, so that no other hook runs."""
    if not spec.requires_calibration_data or not selection.watched or any(s.exact for s in graph.trace.segments):
        return
    linears = {module.name for module in graph.module_refs() if module.itemsize}
    if blocks := sorted(selection.watched - linears):
        more = f" and {len(blocks) - 1} more" if len(blocks) > 1 else ""
        text = f"{spec.where}: what it keeps and computes in the hooks of {blocks[0]}{more} is not counted."
        yield Note(kind="estimate", text=text)


def _inputs(graph: "ModelGraph", selection: Selection) -> Iterator[tuple[str, int]]:
    """Full names of the selected modules that are called, with the number of dimensions of their input."""
    for segment in graph.trace.segments:
        for event in segment.events:
            if event.kind == "exit" and event.call is not None:
                name = full_name(segment.target, event.call.module)
                if name in selection.weights:
                    yield name, len(event.call.dims)


def _qparam_tensors(runs: Sequence[Run]) -> tuple[tuple[int, int], ...]:
    """The qparams that initialize_quantization registers: (bytes, number of such tensors)."""
    tensors: Counter[int] = Counter()
    for run in runs:
        unit_of = {unit.signature: unit for unit in run.units}
        for signature, units in Counter(unit.signature for unit in run.units).items():
            for nbytes in (size for module in unit_of[signature].modules for size in qparam_sizes(module)):
                tensors[nbytes] += units
    return tuple(tensors.items())
