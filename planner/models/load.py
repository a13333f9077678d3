"""From a model's name to its graph: build on the meta device, list the onload units, trace once."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from planner.collector import seldom_collected
from planner.errors import JobError, UnsupportedError
from planner.job import Build, Job
from planner.models.build import (
    architecture,
    names_experts,
    num_experts,
    parameter_bytes,
    parameter_count,
    quiet,
    reading_notes,
    text_config,
    tower_configs,
)
from planner.models.built import BuiltModel, built_model, unchanged
from planner.models.dataflow import DataflowTracer
from planner.models.described import facts_of, ref_of, structure_of
from planner.models.estimate import estimate_trace
from planner.models.experts import find_fused_experts, linear_sizes, linearize
from planner.models.failures import forward_of_model
from planner.models.graph import Edge, ModelGraph, Structure, Unit
from planner.models.guesses import guess, guessed_onload
from planner.models.inputs import calibration_batch
from planner.models.keywords import receivers
from planner.models.kinds import BESIDE_TEXT, UnitKind
from planner.models.offload import disk_modules
from planner.models.retraced import retraced
from planner.models.source import Named, load_source
from planner.models.touched import untouched, untouched_note, with_onloads
from planner.models.trace_notes import CUT_LAYERS, LOST_MASK
from planner.models.traces import ModelTrace
from planner.models.tracing import ModelTracer
from planner.models.tracing_stops import tracing_stops
from planner.models.tuning import tune
from planner.models.wrapping import without_lost_masks
from planner.notes import Note
from planner.recipe.specs import ModuleRef

NO_TRACE = ModelTrace(segments=(), crossings={}, sample_bytes=0, batch_bytes=0)

# Attributes that tell layers apart without changing what they do.
_POSITIONS = re.compile(r"(layer|block|expert)_?(idx|index|id|number)$|^training$|^name$")


@seldom_collected()
def load_model(model: Named, job: Job | None = None) -> ModelGraph:
    """The graph of a preset, config.json, folder, Hub id or config, under a job's options.

    Raises ModelError for a model that cannot be read or built, JobError for sequential targets
    that match nothing.
    """
    job = job or Job()
    return graph_of(load_built(model, job.build), job)


def load_built(model: Named, build: Build) -> BuiltModel:
    """The model of this name, built. Raises ModelError for one that cannot be read or built."""
    return built_model(load_source(model), build)


def graph_of(built: BuiltModel, job: Job) -> ModelGraph:
    """The graph of a built model, traced for this job. Raises JobError for sequential targets that match nothing."""
    with unchanged(built.module):
        loader = _Loader(built, job)
        graph = loader.load()
    targets = {unit.name: unit.structure for unit in graph.units if unit.is_target}
    return replace(
        graph,
        tune=partial(tune, built, job, tuple(targets), num_experts(built.module.config)),
        receivers=partial(receivers, built, job, targets),
        retrace=partial(retraced, built, job, targets, loader.cuts_layers(list(targets))),
    )


def list_parts(built: BuiltModel) -> ModelGraph:
    """The graph of a built model without its forward: units, tensors and modules, no edges and an empty trace."""
    build = built.build
    job = Job(dtype=build.dtype, layers=build.layers, vision_layers=build.vision_layers)
    with unchanged(built.module):
        return _Loader(built, job).load(traced=False)


class _Loader:
    """One model on its way to a ModelGraph."""

    def __init__(self, built: BuiltModel, job: Job) -> None:
        source, model = built.source, built.module
        self.source, self.model, self.job = source, model, job
        self.config: Any = model.config
        is_whole = job.layers is None and job.vision_layers is None
        missing = [f"Not loaded from the checkpoint: {what}" for what in source.not_loaded if is_whole]
        sentences = (*source.notes, *reading_notes(source, model), *missing)
        self.notes = [Note(kind="model", text=text) for text in sentences]
        self.keys: dict[object, int] = {}
        self.structures: list[Structure] = []
        self.units: list[Unit] = []
        self.layout: list[ModuleRef | int] = []
        self.embedding = self._name_of("get_input_embeddings")
        self.head = self._name_of("get_output_embeddings", torch.nn.Linear)
        self.towers: dict[str, UnitKind] = dict(self._tower_roots())
        self.owned: set[int] = set()

    def load(self, traced: bool = True) -> ModelGraph:
        parameters, nbytes = parameter_count(self.model), parameter_bytes(self.model)
        fused = [] if self.job.linearized else [module for _, module in find_fused_experts(self.model)]
        on_disk = disk_modules(self.model, self.job, has_fused_experts=bool(fused))
        self.tied = self._is_tied()
        layer = max((parameter_count(self.model.get_submodule(name)) for name in self._layers()), default=0)
        patterns = self._patterns()
        if self.job.sequential_targets is not None:
            linearize(self.model, self.config, self.job.calibrate_all_experts)
        targets = self._targets(patterns)
        self._visit("", self.model, frozenset(targets), self._roots(targets))
        trace = self._trace(targets) if traced else NO_TRACE
        if len(trace.segments) > 1:
            self.units = with_onloads(self.units, self.structures, trace)
        if any(segment.exact for segment in trace.segments):
            trace = self._with_untouched(trace)
        is_whole = self.job.layers is None and self.job.vision_layers is None
        return ModelGraph(
            name=self.source.name,
            architecture=architecture(self.model),
            parameters=parameters,
            bytes=nbytes,
            buffer_bytes=sum(b.numel() * b.element_size() for b in self.model.buffers()),
            not_loaded_parameters=self.source.not_loaded_parameters if is_whole else 0,
            checkpoint_parameters=self._checkpoint(parameters) if is_whole else parameters,
            layer_parameters=layer,
            units=tuple(self.units),
            structures=tuple(self.structures),
            edges=tuple(self._edges(trace)),
            trace=trace,
            notes=tuple(self.notes),
            sequential_targets=tuple(patterns),
            tied_embeddings=self.tied,
            embedding=self.embedding,
            head=self.head,
            fused_expert_bytes=sum(map(parameter_bytes, fused)),
            fused_linears=tuple(linear_sizes(module, self.config) for module in fused),
            itemsize=getattr(torch, self.job.dtype).itemsize,
            layout=tuple(self.layout),
            job=self.job,
            on_disk=on_disk,
            names_experts=names_experts(self.config),
            facts=facts_of(self.config),
            stops=tracing_stops(self.model, targets),
        )

    def _checkpoint(self, parameters: int) -> int:
        """Parameters in the checkpoint: as it says, or those loaded and those known not to be."""
        return self.source.checkpoint_parameters or parameters + self.source.not_loaded_parameters

    # ------------------------------------------------------------------ parts of the model
    def _name_of(self, getter: str, kind: type[torch.nn.Module] = torch.nn.Module) -> str:
        try:
            module = getattr(self.model, getter)()
        except (AttributeError, NotImplementedError):  # transformers get_output_embeddings: not every model has one
            return ""
        names = (name for name, m in self.model.named_modules() if m is module)
        return next(names, "") if isinstance(module, kind) else ""

    def _tower_roots(self) -> Iterator[tuple[str, UnitKind]]:
        """Names of the outermost modules that own the config of a tower: each whole."""
        for kind, config in tower_configs(self.config).items():
            roots: list[str] = []
            for name, module in self.model.named_modules():
                if getattr(module, "config", None) is config and not name.startswith(tuple(f"{f}." for f in roots)):
                    roots.append(name)
                    yield name, kind

    def _is_tied(self) -> bool:
        if not self.head or not self.embedding:
            return False
        head, embedding = self.model.get_submodule(self.head), self.model.get_submodule(self.embedding)
        return getattr(head, "weight", 0) is getattr(embedding, "weight", 1)

    # ------------------------------------------------------------------ sequential targets
    def _patterns(self) -> list[str]:
        """utils/pytorch/module.py infer_sequential_targets: the user's, else `_no_split_modules`."""
        if self.job.sequential_targets is not None:
            return list(self.job.sequential_targets)
        return sorted(getattr(self.model, "_no_split_modules", None) or ())

    def _targets(self, patterns: list[str]) -> list[str]:
        """Names of the sequential targets that become subgraphs of their own."""
        from compressed_tensors.utils import match_named_modules

        matched = [name for name, _ in match_named_modules(self.model, patterns)]
        if self.job.sequential_targets is not None:
            for pattern in patterns:
                if next(iter(match_named_modules(self.model, [pattern])), None) is None:
                    raise JobError(
                        f"--sequential-targets: {pattern} matches nothing in {self.source.name}; "
                        f"its module classes are {self._classes()}"
                    )
        inside = tuple(f"{root}." for root in self.towers)
        targets = [name for name in matched if not self._runs_wrapped(name, inside)] if inside else matched
        if len(targets) < len(matched):
            idle = "." if self.job.has_media else "; text-only samples never run it."
            kinds = " and the ".join(dict.fromkeys(self.towers.values()))
            text = (
                f"The {kinds} tower is onloaded whole, with the head subgraph: its blocks run inside a function that "
                f"LLM Compressor wraps, although their class is among the sequential targets{idle}"
            )
            self.notes.append(Note(kind="model", text=text))
        return targets

    def _runs_wrapped(self, name: str, inside: tuple[str, ...]) -> bool:
        """Whether it is in a tower or projector, which run under `if pixel_values is not None`."""
        return name.startswith(inside) or guess(name, self.model.get_submodule(name)) == "projector"

    def _classes(self) -> str:
        return ", ".join(
            sorted({type(m).__name__ for m in self.model.modules() if next(m.children(), None) is not None})
        )

    def _roots(self, targets: Iterable[str]) -> dict[str, UnitKind]:
        roots: dict[str, UnitKind] = dict.fromkeys(targets, "decoder")
        roots.update(self.towers)
        if self.embedding:
            roots[self.embedding] = "embedding"
        if self.head:
            roots[self.head] = "head"
        return roots

    # ------------------------------------------------------------------ units
    def _visit(self, name: str, module: torch.nn.Module, targets: frozenset[str], roots: dict[str, UnitKind]) -> None:
        """Make a unit of `module`, or look inside when parts of it are units."""
        if name in roots:
            self._add_unit(name, module, roots[name], targets)
        elif name and not any(root.startswith(f"{name}.") for root in roots):
            self._add_unit(name, module, guess(name, module), targets)
        else:
            self.layout.append(ref_of(name, module))
            if next(module.parameters(recurse=False), None) is not None:
                self._add_unit(name, _Bare(module), "other", targets)
            for child, part in module.named_children():
                self._visit(f"{name}.{child}".lstrip("."), part, targets, roots)

    def _add_unit(self, name: str, module: torch.nn.Module, kind: UnitKind, targets: frozenset[str]) -> None:
        key = (kind, structure_key(module, self.owned))
        if key not in self.keys:
            self.keys[key] = len(self.structures)
            # only one of equal units gets its experts spread out: a 671B model has 58 of them
            linearize(module, self.config, self.job.calibrate_all_experts)
            self.structures.append(structure_of(module, self.owned))
        number = self.keys[key]
        structure = self.structures[number]
        self.owned |= {id(p) for p in module.parameters()}
        self.layout.append(len(self.units))
        self.units.append(
            Unit(
                name=name,
                kind=kind,
                structure=number,
                class_name=structure.class_name,
                parameters=structure.count,
                bytes=structure.bytes,
                linears=structure.linears,
                onload=guessed_onload(kind, name in targets, self.job.has_media),
                is_target=name in targets,
            )
        )

    # ------------------------------------------------------------------ the forward
    def _trace(self, targets: list[str]) -> ModelTrace:
        """The traced forward; an estimate, labelled so, where it does not run without data."""
        batch = calibration_batch(self.config, self.job.batch_shape, getattr(torch, self.job.dtype))
        if not targets:
            return self._estimate("the model has no sequential targets")
        numbers = {unit.name: unit.structure for unit in self.units if unit.name in set(targets)}
        tracer = DataflowTracer if self.cuts_layers(targets) else ModelTracer
        try:
            with quiet(), without_lost_masks(self.model, targets) as lost, forward_of_model():
                trace = tracer(self.model, numbers, batch, num_experts(self.config)).run()
        except UnsupportedError as error:
            return self._estimate(str(error))
        notes = [LOST_MASK] if lost else []
        notes += [CUT_LAYERS] if tracer is DataflowTracer else []
        return replace(trace, notes=(*trace.notes, *notes))

    def _with_untouched(self, trace: ModelTrace) -> ModelTrace:
        """The trace with weights that it never reads, and a note on those that text-only samples do not explain."""
        missing = untouched(self.units, self.structures, trace)
        trace = replace(trace, unread=frozenset(name for names in missing.values() for name in names))
        idle = {unit.name for unit in self.units if unit.kind in BESIDE_TEXT} if not self.job.has_media else ()
        unexplained = [name for unit, names in missing.items() if unit not in idle for name in names]
        if not unexplained:
            return trace
        return replace(trace, notes=(*trace.notes, Note(kind="estimate", text=untouched_note(unexplained))))

    def cuts_layers(self, targets: list[str]) -> bool:
        """Whether some target lies inside a default target, a decoder layer, so that borders run through it."""
        inside = tuple(f"{layer}." for layer in self._layers())
        return any(name.startswith(inside) for name in targets)

    def _layers(self) -> list[str]:
        """Names of the text decoder's layers, the default sequential targets."""
        classes = set(getattr(self.model, "_no_split_modules", None) or ())
        inside = tuple(f"{root}." for root in self.towers)
        named = ((name, type(m).__name__) for name, m in self.model.named_modules())
        return [name for name, kind in named if kind in classes and not (inside and name.startswith(inside))]

    def _estimate(self, reason: str) -> ModelTrace:
        text = text_config(self.config)
        return estimate_trace(
            self.units, self.structures, text, self.job, getattr(torch, self.job.dtype).itemsize, reason
        )

    def _edges(self, trace: ModelTrace) -> Iterator[Edge]:
        """One edge per pair of units of which one makes tensors that the other reads."""
        names = trace.names()
        grouped: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for segment in trace.segments:
            for number in segment.reads:
                crossing = trace.crossings[number]
                if crossing.producer >= 0:
                    source = trace.segments[crossing.producer].target or self.embedding
                    pair = (source, segment.target or self.embedding)
                    grouped.setdefault(pair, []).append((names[number], crossing.bytes))
        return (Edge(source=a, target=b, tensors=tuple(tensors)) for (a, b), tensors in grouped.items())


class _Bare(torch.nn.Module):
    """The parameters that a module holds itself, without its children."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)


def structure_key(module: torch.nn.Module, owned: set[int]) -> object:
    """Equal for modules with equal classes, shapes and plain attributes, which hold and do the same."""
    return tuple(
        (
            name,
            type(part),
            tuple((n, tuple(p.shape), p.dtype, id(p) in owned) for n, p in part.named_parameters(recurse=False)),
            tuple((n, tuple(b.shape), b.dtype) for n, b in part.named_buffers(recurse=False)),
            tuple(
                (k, v)
                for k, v in part.__dict__.items()
                if isinstance(v, (int, float, str, bool)) and not _POSITIONS.search(k)
            ),
        )
        for name, part in module.named_modules()
    )
