"""The only place where graph, recipe, modifiers and pipeline meet: one job in, one Plan out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

from planner.errors import JobError, RecipeError
from planner.job import Job
from planner.matching import check_group_sizes, check_targets, resolve, resolve_sparse
from planner.recipe import load_recipe
from planner.rule_of_thumb import rule_of_thumb
from planner.schema import CpuPeak, CpuStep, GpuPeak, GpuStep, ModelFacts, Owned, Plan, RuleOfThumb, Step
from planner.simulation.context import Context, LinearModule
from planner.simulation.forward import full_name
from planner.simulation.host import simulate
from planner.simulation.ledger import Peak
from planner.simulation.modifiers.rtn import qparam_bytes
from planner.simulation.program import Outcome, Program, Run, StepMemory, UnitTargets
from planner.specs import GPTQSpec, ModifierSpec, QuantizationSpec, Recipe, Scheme, SparseGPTSpec

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph, Unit

Method = Literal["simulate", "rule-of-thumb"]
Progress = Callable[[str], None]


def plan(model: str, recipe: str, job: Job | None = None, *, method: Method = "simulate", progress: Progress | None = None) -> Plan:
    """Plan one job: a preset, config.json, folder or Hub id, with a shipped recipe's name or a YAML file.

    Raises ModelError, RecipeError, JobError or UnsupportedError; nothing else for bad input.
    """
    return compare(model, [recipe], job, method=method, progress=progress)[0]


def compare(
    model: str, recipes: Sequence[str], job: Job | None = None, *, method: Method = "simulate", progress: Progress | None = None
) -> tuple[Plan, ...]:
    """Plan several recipes on one model; the model is built and traced once."""
    job, say = job or Job(), progress or (lambda text: None)
    read = [load_recipe(name) for name in recipes]
    say(f"building {model} without weights")
    from planner.models.load import load_model

    graph = load_model(model, job)
    plans = []
    for recipe in read:
        say(f"planning {recipe.name}")
        plans.append(plan_graph(graph, recipe, job, method=method))
    return tuple(plans)


def plan_graph(graph: "ModelGraph", recipe: Recipe, job: Job, *, method: Method = "simulate", fold: bool = True) -> Plan:
    """Plan a recipe on a model that is built already. Pure: no torch, no files.

    `fold=False` simulates every subgraph, equal or not; the result is the same.
    """
    notes: list[str] = [*graph.notes, *getattr(recipe, "notes", ())]
    program = make_program(graph, recipe, job, notes)
    _check_targets(graph, program, job)
    rule = _rule(graph, recipe)
    if method == "rule-of-thumb":
        return _rule_plan(graph, recipe, job, rule, notes)
    outcome = simulate(program, Context(job=job), fold=fold)
    if _pipelines(program, job) - {"datafree"}:
        notes += graph.trace.notes
    notes += _pipeline_notes(job, program)
    return _record(graph, recipe, job, rule, outcome, tuple(dict.fromkeys(notes)))


def _check_targets(graph: "ModelGraph", program: Program, job: Job) -> None:
    """The sequential pipeline cannot start without sequential targets (infer_sequential_targets)."""
    if _pipelines(program, job) & {"sequential"} and not any(unit.onload == "own subgraph" for unit in graph.units):
        raise JobError(
            f"{graph.name}: transformers names no layer class for {graph.architecture}, so LLM Compressor cannot infer sequential targets; "
            "name one with --sequential-targets (planner graph lists classes)"
        )


def _pipelines(program: Program, job: Job) -> set[str]:
    """Names of the pipelines that this job runs."""
    if job.pipeline != "independent":
        return {job.pipeline}
    return {"sequential" if run.spec.requires_calibration_data else "datafree" for run in program.runs}


# ---------------------------------------------------------------------- recipe onto model
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
    _check_vision(spec, units, graph, job, notes)
    notes += _failures(spec, units, graph)
    return Run(spec=spec, units=units, unties_embeddings=not sparse and bool({graph.embedding, graph.head} & chosen))


def _check_groups(graph: "ModelGraph", spec: QuantizationSpec, schemes: dict[str, Scheme]) -> None:
    columns = {u.name + m.name: m.columns for u in graph.units for m in graph.weighted(u) if u.name + m.name in schemes}
    check_group_sizes(schemes, columns, spec)


def _unit_targets(graph: "ModelGraph", chosen: frozenset[str], schemes: dict[str, Scheme], sparse: bool) -> Iterable[UnitTargets]:
    """Targeted modules unit by unit; equal units targeted equally share one list of modules."""
    known: dict[object, tuple[int, tuple[LinearModule, ...]]] = {}
    for unit in graph.units:
        hits = tuple((m, schemes.get(unit.name + m.name)) for m in graph.weighted(unit) if unit.name + m.name in chosen)
        if not hits:
            continue
        key = (unit.structure, unit.kind, tuple((m.name, id(scheme)) for m, scheme in hits))
        if key not in known:
            known[key] = (len(known), tuple(_module(unit, m.name, m.rows, m.columns, m.itemsize, s, sparse) for m, s in hits))
        signature, modules = known[key]
        yield UnitTargets(unit=unit.name, signature=signature, modules=modules, loose=unit.onload != "own subgraph")


def _module(unit: "Unit", name: str, rows: int, columns: int, itemsize: int, scheme: Scheme | None, sparse: bool) -> LinearModule:
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


def _check_vision(spec: ModifierSpec, units: Sequence[UnitTargets], graph: "ModelGraph", job: Job, notes: list[str]) -> None:
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
        notes.append(f"{spec.type} targets {count} in the vision tower; text-only samples never run it, so they stay as they are.")
    elif isinstance(spec, QuantizationSpec):
        notes.append(f"{spec.type} targets {count} in the vision tower, but LLM Compressor never computes their weight scales: add the tower to ignore.")


def _failures(spec: ModifierSpec, units: Sequence[UnitTargets], graph: "ModelGraph") -> Iterator[str]:
    """Jobs that the library starts and does not finish: the plan says so beside its numbers."""
    if isinstance(spec, SparseGPTSpec):
        if spec.offload_hessians:
            # sgpt_sparsify.py sparsify_weight divides a GPU tensor by the CPU Hessian's diagonal
            yield (
                "This job fails in LLM Compressor: with offload_hessians, SparseGPT compresses with the Hessian on the CPU and the weight "
                "on the GPU ('Expected all tensors to be on the same device'). Leave offload_hessians out."
            )
        names = {u.unit + m.name for u in units for m in u.modules}
        deep = next((c for c in _deep_calls(graph) if c in names), None)
        if deep is not None:
            # sgpt_sparsify.py accumulate_hessian, unlike GPTQ's, flattens inputs of 3 dimensions at most
            yield (
                f"This job fails in LLM Compressor: SparseGPT cannot take the input of {deep}, which has more than 3 dimensions "
                "('t() expects a tensor with <= 2 dimensions'). Add it to ignore."
            )
    if isinstance(spec, QuantizationSpec) and spec.kv_cache is not None:
        yield "kv_cache_scheme: its observers copy one layer's keys or values at a time; these temporaries are not counted."


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


def _pipeline_notes(job: Job, program: Program) -> list[str]:
    notes = []
    if job.pipeline == "basic":
        notes.append("The basic pipeline computes where the model lies: loaded without a device map, that is the CPU, so its figures say nothing about a GPU.")
    if job.pipeline == "datafree" and any(run.spec.requires_calibration_data for run in program.runs):
        notes.append("The datafree pipeline runs no forward, although a modifier of this recipe needs calibration data.")
    if job.pipeline == "independent" and len(program.runs) > 1:
        notes.append("The independent pipeline runs each modifier over the data in its own pass.")
    return notes


# ---------------------------------------------------------------------- the record
def _rule(graph: "ModelGraph", recipe: Recipe) -> RuleOfThumb:
    return rule_of_thumb(
        checkpoint_parameters=graph.checkpoint_parameters,
        text_layer_parameters=graph.layer_parameters,
        vision_tower_parameters=graph.total("vision"),
        has_hessians=any(spec.has_hessians for spec in recipe.modifiers),
    )


def _facts(graph: "ModelGraph") -> ModelFacts:
    return ModelFacts(
        name=graph.name,
        architecture=graph.architecture,
        parameters=graph.parameters,
        bytes=graph.bytes,
        not_loaded_parameters=graph.not_loaded_parameters,
    )


def _record(graph: "ModelGraph", recipe: Recipe, job: Job, rule: RuleOfThumb, outcome: Outcome, notes: tuple[str, ...]) -> Plan:
    steps = tuple(_step(index, step) for index, step in enumerate(outcome.steps))
    gpu = max(steps, key=lambda s: (s.gpu.peak_bytes, -s.index))
    cpu = max(steps, key=lambda s: (s.cpu.peak_bytes, -s.index))
    return Plan(
        recipe=recipe.name,
        model=_facts(graph),
        job=job,
        gpu=GpuPeak(
            peak_bytes=gpu.gpu.peak_bytes, peak_allocated_bytes=max(s.gpu.peak_allocated_bytes for s in steps), peak_step=gpu.index
        ),
        cpu=CpuPeak(peak_bytes=cpu.cpu.peak_bytes, peak_step=cpu.index),
        steps=steps,
        rule_of_thumb=rule,
        notes=notes,
    )


def _step(index: int, step: StepMemory) -> Step:
    return Step(
        index=index,
        modifier=step.modifier,
        subgraph=step.subgraph,
        of=step.of,
        phase=step.phase,  # type: ignore[arg-type]  # the pipelines close steps with the contract's phases
        unit=step.unit,
        exact=step.exact,
        gpu=GpuStep(
            peak_bytes=step.gpu.bytes,
            peak_allocated_bytes=step.gpu.allocated,
            end_bytes=step.gpu.end,
            by_kind=step.gpu.by_kind,
            largest=_owned(step.gpu),
        ),
        cpu=CpuStep(peak_bytes=step.cpu.bytes, end_bytes=step.cpu.end, by_kind=step.cpu.by_kind, largest=_owned(step.cpu)),
    )


def _owned(peak: Peak) -> tuple[Owned, ...]:
    return tuple(Owned(owner=h.owner, kind=h.kind, bytes=h.bytes) for h in peak.largest)


def _rule_plan(graph: "ModelGraph", recipe: Recipe, job: Job, rule: RuleOfThumb, notes: list[str]) -> Plan:
    """The documented rule as a plan of one step."""
    note = "The documented rule of thumb counts weights alone: no activations, caches, temporaries or data."
    gpu = GpuStep(
        peak_bytes=rule.gpu_bytes,
        peak_allocated_bytes=rule.gpu_bytes,
        end_bytes=0,
        by_kind={"weights": rule.gpu_bytes},
        largest=(Owned(owner="one layer or the vision tower", kind="weights", bytes=rule.gpu_bytes),),
    )
    cpu = CpuStep(
        peak_bytes=rule.cpu_bytes,
        end_bytes=rule.cpu_bytes,
        by_kind={"model": rule.cpu_bytes},
        largest=(Owned(owner="model weights", kind="model", bytes=rule.cpu_bytes),),
    )
    step = Step(index=0, modifier=None, subgraph=None, of=None, phase="calibrate", unit="rule of thumb", exact=False, gpu=gpu, cpu=cpu)
    return Plan(
        method="rule-of-thumb",
        recipe=recipe.name,
        model=_facts(graph),
        job=job,
        gpu=GpuPeak(peak_bytes=rule.gpu_bytes, peak_allocated_bytes=rule.gpu_bytes, peak_step=0),
        cpu=CpuPeak(peak_bytes=rule.cpu_bytes, peak_step=0),
        steps=(step,),
        rule_of_thumb=rule,
        notes=(note, *dict.fromkeys(notes)),
    )
