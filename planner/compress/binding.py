"""Resolves a recipe onto a model: which modules each modifier works on, checked as the library checks it."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planner.compress.called import Called
from planner.compress.disk import disk_share, qparams_on_disk
from planner.compress.loss_masks import mask_receivers, with_loss_masks
from planner.compress.program import Program, Run
from planner.compress.pruning import check_pruning
from planner.compress.tuning import cards_notes, other_cards, raced, second_card, trainable, tuned_layers
from planner.errors import UnsupportedError
from planner.fields import JOB_FIELDS
from planner.job import Job
from planner.models.kinds import BESIDE_TEXT
from planner.models.traces import KEY_STATES, QUERY_STATES, VALUE_STATES, full_name
from planner.models.tuned import OnlineRotation
from planner.notes import Note
from planner.recipe.qparams import qparam_sizes
from planner.recipe.specs import (
    AttentionScheme,
    HiddenModule,
    ModelTraits,
    ModifierSpec,
    ModuleRef,
    Recipe,
    Scheme,
    Selection,
)
from planner.recipe.targets import LinearModule, UnitTargets

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph, ModuleInfo, Unit


BESIDE_PROGRAM = frozenset(
    {
        "offload_device",
        "propagate_error",
        "prefetch",
        "progress_bars",
        "gpu",
        "gpu_memory_bytes",
        "sm",
        "alloc_conf",
        "cuda_context_bytes",
    }
)
"""Fields of a job that decide nothing of its program, but for whether there is a second card."""
OF_SAMPLES = frozenset({"samples", "ranks", "targets_per_subgraph"})
"""These decide something of it only where a modifier trains, or where samples have masks."""
OF_CARD = frozenset({"gpu_memory_bytes"})
"""Of those in `BESIDE_PROGRAM`, what decides something where a modifier adapts to the size of its GPUs."""


def decides_program(recipe: Recipe, job: Job) -> tuple[Any, ...]:
    """The fields on which `make_program` depends, as a key: equal for jobs that have one program on one graph."""
    is_of_samples = job.loss_mask or any(spec.trains for spec in recipe.modifiers)
    beside = BESIDE_PROGRAM if is_of_samples else BESIDE_PROGRAM | OF_SAMPLES
    if recipe.adapts_to_card:
        beside -= OF_CARD
    return job.has_second_gpu, *(getattr(job, field.name) for field in JOB_FIELDS if field.name not in beside)


def make_program(graph: "ModelGraph", recipe: Recipe, job: Job) -> tuple[Program, tuple[Note, ...]]:
    """Every modifier resolved onto the model's modules, and notes on what the resolution met.

    Raises RecipeError as the library would.
    """
    traits, modules = _traits(graph), graph.module_refs()
    hookable = _hookable(graph, job)
    specs = [spec.within(traits, hookable, recipe.modifiers) for spec in recipe.modifiers]
    own = [spec.select(modules) for spec in specs]
    schemes = _schemes(specs, own)
    own = list(_of_what_is_left(specs, own, job))
    hooks = list(_hooks_to_trace(graph, specs, job))
    specs = [spec.with_traced(each) for spec, each in zip(specs, hooks, strict=True)]
    graph = _with_hooks(graph, specs, hooks, job)
    bound = [_bind(graph, spec, job, selection, schemes) for spec, selection in zip(specs, own, strict=True)]
    runs = tuple(run for run, _ in bound)
    quantized = tuple(_unit_targets(graph, schemes, job))
    tuned = tuned_layers(graph, runs, job)
    peaks = other_cards(tuned)
    check_pruning(graph, runs, job)
    head = next((u for u in graph.units if u.name == graph.head), None)
    embedding = next((u for u in graph.units if u.name == graph.embedding), None)
    embedding_bytes = embedding.bytes if embedding else 0
    tensors, disk = _qparam_tensors(quantized, graph.on_disk), disk_share(graph, runs, quantized)
    receivers, masked = mask_receivers(graph, any(spec.keeps_arguments for spec in specs), job)
    program = Program(
        trace=with_loss_masks(graph.trace, job, receivers),
        runs=runs,
        weight_bytes=graph.bytes + graph.buffer_bytes,
        fused_expert_bytes=graph.fused_expert_bytes,
        qparam_bytes=sum(nbytes * count for nbytes, count in tensors) + disk.qparams,
        qparam_tensors=tensors,
        head_bytes=(embedding_bytes if graph.tied_embeddings else head.bytes) if head else 0,
        embedding_bytes=embedding_bytes,
        tied=graph.tied_embeddings,
        head=f"{graph.head}.weight",
        embedding=f"{graph.embedding}.weight",
        fused_linears=graph.fused_linears,
        tuned=tuned,
        second_gpu=second_card(peaks, job),
        other_gpus=max(gpu for spec in specs for gpu in spec.spreads_over) if peaks else int(job.has_second_gpu),
        on_disk=graph.on_disk,
        disk_bytes=disk.weights,
        disk_qparam_bytes=disk.qparams,
        disk_written_bytes=disk.qparams + disk.rewritten + disk.left,
    )
    cards = cards_notes(runs, peaks, program.second_gpu, raced(tuned) if peaks else {})
    return program, (*(note for _, notes in bound for note in notes), *masked, *cards)


def _hooks_to_trace(
    graph: "ModelGraph", specs: Sequence[ModifierSpec], job: Job
) -> Iterator[frozenset[tuple[str, str]]]:
    """Of each modifier, the hooks that have to be in the traced forward, by module and place."""
    called = {passes: Called(graph, job, samples=passes) for passes in (True, False)}
    for number, spec in enumerate(specs):
        yield frozenset(spec.check_forward(called[_has_samples(specs[number:], job)]))


def _with_hooks(
    graph: "ModelGraph", specs: Sequence[ModifierSpec], hooks: Sequence[Collection[tuple[str, str]]], job: Job
) -> "ModelGraph":
    """The graph traced with these hooks, by module and place, and with what modifiers hook on modules that hold
    sequential targets: what a pipeline of its own has hooked before the trace (pipelines/independent/pipeline.py; the
    others hook once the model is traced).

    Raises UnsupportedError where samples pass before and after it is hooked.
    """
    nodes = {name for name, calls in graph.trace.held.items() if name and all(call.in_graph for call in calls)}
    if job.pipeline != "independent":
        nodes = set()
    taken = nodes.union(*({name for name, _ in own} for own in hooks))
    refs = [ref for ref in graph.module_refs() if ref.name in taken]
    found: list[OnlineRotation] = []
    for number, (spec, own) in enumerate(zip(specs, hooks, strict=True) if refs else ()):
        runs = _has_samples(specs[number:], job)
        rotations = [
            each
            for each in (spec.online("", refs) if runs else ())
            if (each.module, each.place) in own or (each.module in nodes and each.place in ("input", "output"))
        ]
        if rotations and job.pipeline == "independent" and _has_samples(specs[:number], job):
            name = rotations[0].module
            raise UnsupportedError(f"{spec.where}: samples pass before {name} is hooked too: planner has one trace")
        found += rotations
    if not found or graph.retrace is None:
        return graph
    return replace(graph, trace=replace(graph.retrace(found), notes=graph.trace.notes))


def _hookable(graph: "ModelGraph", job: Job) -> Sequence[ModuleRef]:
    """The modules as transforms meet them: what torch.fx went through before they came is not called, so that it
    hands its cache to nobody (`Called`)."""
    held = graph.trace.held if job.pipeline == "sequential" else {}
    modules = graph.module_refs()
    return [replace(ref, takes_cache=ref.takes_cache and ref.name not in held) for ref in modules] if held else modules


def _has_samples(specs: Sequence[ModifierSpec], job: Job) -> bool:
    """Whether the model's forward runs once the first of these is there; each has its own pipeline if independent."""
    if job.pipeline != "independent":
        return job.pipeline != "datafree"
    return any(spec.requires_calibration_data for spec in specs)


def _of_what_is_left(specs: Sequence[ModifierSpec], selections: Sequence[Selection], job: Job) -> Iterator[Selection]:
    """The selections without modules that an earlier modifier, with a pipeline of its own, has removed.

    Raises UnsupportedError where a later one runs the smaller model: its forward is not traced.
    """
    for number, (spec, selection) in enumerate(zip(specs, selections, strict=True)):
        earlier = specs[:number] if job.pipeline == "independent" else ()
        pruning = [one for one in earlier if any(one.removes(name) for other in selections for name in other.watched)]
        if pruning and spec.requires_calibration_data:
            raise UnsupportedError(
                f"{spec.where}: planner does not follow {spec.type} over a model that {pruning[0].type} has pruned; "
                "plan both in one pass (--pipeline sequential), or the saved model by its smaller config.json"
            )
        weights = {
            name: scheme for name, scheme in selection.weights.items() if not any(one.removes(name) for one in pruning)
        }
        yield replace(selection, weights=weights)


def _schemes(specs: Sequence[ModifierSpec], selections: Sequence[Selection]) -> Selection:
    """What is on the modules once every modifier is initialized (core/lifecycle.py `initialize`): of two schemes for a
    module, the later modifier's."""
    weights: dict[str, Scheme | None] = {}
    attention: dict[str, AttentionScheme] = {}
    for spec, selection in zip(specs, selections, strict=True):
        attached = spec.attached(selection)
        weights |= attached.weights
        attention |= attached.attention
    return Selection(weights=weights, attention=attention)


def _bind(
    graph: "ModelGraph", spec: ModifierSpec, job: Job, own: Selection, schemes: Selection
) -> tuple[Run, tuple[Note, ...]]:
    """One modifier with its modules, and its notes in the order in which the library would meet their causes.

    `own`: what it selects; `schemes`: those that it finds.
    """
    modules = graph.module_refs()
    selection = spec.find(own, schemes)
    if spec.trains:
        selection = replace(selection, watched=selection.watched.union(trainable(graph)))
    checked = tuple(spec.check(modules, selection))
    units = tuple(_unit_targets(graph, selection, job))
    run = Run(
        spec=spec,
        units=units,
        unties_embeddings=spec.unties_embeddings and not own.weights.keys().isdisjoint(_ends(graph)),
    )
    hidden = _hidden(units, graph, job) if spec.requires_calibration_data else ()
    notes = (
        *checked,
        *(spec.hidden(hidden) if hidden else ()),
        *spec.failures(_inputs(graph, selection)),
        *(_masked(graph, spec, selection, job) if job.loss_mask else ()),
        *spec.uncounted(),
        *_unwatched(graph, spec, selection),
    )
    return run, notes


def _masked(graph: "ModelGraph", spec: ModifierSpec, selection: Selection, job: Job) -> Iterator[Note]:
    """What samples with a loss mask change, where there is a forward over them."""
    if job.pipeline == "datafree" or not spec.requires_calibration_data:
        return
    yield from spec.masked(_outputs(graph, selection), job.batch_size, job.seq_len)


def _traits(graph: "ModelGraph") -> ModelTraits:
    """modifiers/utils/pytorch_helpers.py is_moe_model: by the classes of the modules, or by the config's fields."""
    is_moe = graph.names_experts or any(
        "MoE" in ref.classes[0] or "Expert" in ref.classes[0] for ref in graph.module_refs() if ref.classes
    )
    return replace(graph.facts, architecture=graph.architecture, is_moe=is_moe)


def _ends(graph: "ModelGraph") -> set[str]:
    """Names of the embedding and the head; a model may lack either."""
    return {name for name in (graph.embedding, graph.head) if name}


def _unit_targets(graph: "ModelGraph", selection: Selection, job: Job) -> Iterator[UnitTargets]:
    """Selected modules unit by unit; equal units with an equal selection share one list of modules."""
    by_key: dict[object, tuple[int, tuple[LinearModule, ...]]] = {}
    for unit in graph.units:
        members = [
            (info, selection.weights.get(unit.name + info.name), _is_observed(unit, unit.name + info.name, graph, job))
            for info in graph.structures[unit.structure].modules
            if _is_selected(info, unit.name + info.name, selection)
        ]
        states = tuple(_states(unit, graph, selection))
        if not members and not states:
            continue
        key = (
            unit.structure,
            unit.kind,
            tuple((info.name, id(scheme), observed) for info, scheme, observed in members),
            states,
        )
        if key not in by_key:
            by_key[key] = (len(by_key), tuple(_module(info, scheme, observed) for info, scheme, observed in members))
        signature, modules = by_key[key]
        loose = unit.onload != "own-subgraph"
        yield UnitTargets(unit=unit.name, signature=signature, modules=modules, loose=loose, states=states)


def _states(unit: "Unit", graph: "ModelGraph", selection: Selection) -> Iterator[LinearModule]:
    """Queries, keys and values of the unit's attentions that are quantized."""
    for info in graph.structures[unit.structure].modules if selection.attention or selection.keys else ():
        if unit.name + info.name in selection.keys:
            heads = graph.facts.kv_heads or 1
            yield LinearModule(
                name=f"{info.name}.{KEY_STATES}", rows=0, columns=0, itemsize=graph.itemsize, heads=heads
            )
        attention = selection.attention.get(unit.name + info.name)
        if attention is None:
            continue
        keys = ((KEY_STATES, graph.facts.kv_heads), (VALUE_STATES, graph.facts.kv_heads))
        for name, heads in ((QUERY_STATES, graph.facts.heads), *keys) if attention.queries else keys:
            yield LinearModule(
                name=f"{info.name}.{name}",
                rows=0,
                columns=0,
                itemsize=graph.itemsize,
                scheme=Scheme(targets=(), input_activations=attention.args),
                heads=heads or 1,
                has_zero_point=attention.queries or not attention.args.symmetric,
                observed=attention.is_observed,
            )


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


def _is_observed(unit: "Unit", name: str, graph: "ModelGraph", job: Job) -> bool:
    """Subgraph.submodules (pipelines/sequential/helpers.py) lists what the traced graph calls as modules:
    not what a wrapped function calls, such as the vision tower. The basic pipeline hands all of the model's to
    `sequential_epoch_end` (pipelines/basic/pipeline.py), whose ranges are those of what samples run."""
    if job.pipeline == "basic" and (job.has_media or unit.kind not in BESIDE_TEXT):
        return True
    return unit.kind not in BESIDE_TEXT and name not in graph.trace.wrapped


def _hidden(units: Sequence[UnitTargets], graph: "ModelGraph", job: Job) -> tuple[HiddenModule, ...]:
    """Selected modules that the traced graph does not show, or that no sample runs."""
    named = [(unit.unit + module.name, module) for unit in units for module in unit.modules]
    idle = {name for name, _ in named if f"{name}.weight" in graph.trace.unread}
    return tuple(
        HiddenModule(name, module.embedding, runs=name not in idle and (job.has_media or name in graph.trace.wrapped))
        for name, module in named
        if name in idle or not module.observed
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


def _outputs(graph: "ModelGraph", selection: Selection) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Full names of the watched modules that are called, with the rows of their input and the shape of their output."""
    for segment in graph.trace.segments:
        for event in segment.events:
            if event.kind == "exit" and event.call is not None:
                name = full_name(segment.target, event.call.module)
                if name in selection.watched:
                    yield name, event.call.rows, event.call.output


def _qparam_tensors(quantized: Sequence[UnitTargets], on_disk: frozenset[str]) -> tuple[tuple[int, int], ...]:
    """The qparams in memory once all modifiers are initialized: (bytes, number of such tensors).

    initialize.py `initialize_module_for_quantization` drops those of an earlier scheme.
    """
    tensors: Counter[int] = Counter()
    unit_of = {unit.signature: unit for unit in quantized}
    for signature, units in Counter(unit.signature for unit in quantized).items():
        unit = unit_of[signature]
        for nbytes in (size for module in (*unit.modules, *unit.states) for size in qparam_sizes(module)):
            tensors[nbytes] += units
    tensors.subtract(qparams_on_disk(quantized, on_disk))
    return tuple((nbytes, count) for nbytes, count in tensors.items() if count)
