"""The whole forward with transforms that change more of it than a value. On modules that hold sequential targets they
are nodes of the traced graph, in that part of it where topological_partition puts them (llmcompressor
pipelines/sequential/helpers.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from planner.errors import RecipeError, UnsupportedError
from planner.job import Job
from planner.models.build import num_experts, quiet
from planner.models.built import BuiltModel, unchanged
from planner.models.dataflow import DataflowTracer
from planner.models.experts import linearize
from planner.models.failures import ForwardError, forward_of_model
from planner.models.inputs import calibration_batch
from planner.models.rotated import RunningTransform, rotated
from planner.models.traces import Event, ModelTrace, Segment, full_name
from planner.models.tracing import ModelTracer
from planner.models.tuned import OnlineRotation, alone
from planner.models.wrapping import without_lost_masks


def retraced(
    built: BuiltModel, job: Job, targets: Mapping[str, int], cuts: bool, rotations: Sequence[OnlineRotation]
) -> ModelTrace:
    """The trace with these transforms, whose modules go by their full names.

    `targets`: sequential targets with the numbers of their structures; `cuts`: they lie inside of layers. Raises
    RecipeError where the library cannot run the forward with them.
    """
    model: Any = built.module
    for rotation in (rotations[number] for number in sorted(alone(rotations))):
        text = f"two transforms are called {rotation.module}.{rotation.name}"
        if job.pipeline == "basic" or not any(name.startswith(f"{rotation.module}.") for name in targets):
            raise UnsupportedError(f"{text}: planner does not follow both, where they change more than a value")
        # torch/fx/_symbolic_trace.py Tracer.path_of_module looks for the transform
        raise RecipeError(
            f"{text}: the module keeps the later one, and torch.fx stops at the other one's hook (NameError); take "
            "another name for a group, or other targets"
        )
    labels: dict[str, str] = {}
    for rotation in rotations:
        labels[f"{rotation.module}.{rotation.name}.weight".lstrip(".")] = rotation.label
        labels[f"{rotation.module}.{rotation.name}.perm".lstrip(".")] = f"{rotation.label} permutation"
    batch = calibration_batch(model.config, job.batch_shape, getattr(torch, job.dtype))
    tracer = DataflowTracer if cuts else ModelTracer
    with quiet(), unchanged(model):
        linearize(model, model.config, job.calibrate_all_experts)
        with rotated(model, rotations), without_lost_masks(model, list(targets)):
            try:
                with forward_of_model():
                    trace = tracer(model, _apart(targets, rotations), batch, num_experts(model.config)).run()
            except ForwardError as error:
                where = ", ".join(dict.fromkeys(rotation.module for rotation in rotations[:3]))
                reason = error.reason.replace(f"{RunningTransform.__name__}.", "the transform's ")
                text = f"with transforms on {where} the model's forward stops in LLM Compressor ({reason})"
                raise RecipeError(text) from error
    return replace(trace, segments=tuple(_labelled(segment, labels) for segment in trace.segments))


def _apart(targets: Mapping[str, int], rotations: Sequence[OnlineRotation]) -> dict[str, int]:
    """The targets with other numbers for those that are equal but for their transforms."""
    numbers: dict[object, int] = {}
    found: dict[str, int] = {}
    for name, structure in targets.items():
        inside = (each for each in rotations if f"{each.module}.".startswith(f"{name}."))
        own = tuple(replace(each, module=each.module[len(name) :]) for each in inside)
        found[name] = numbers.setdefault((structure, own), len(numbers))
    return found


def _labelled(segment: Segment, labels: Mapping[str, str]) -> Segment:
    """Hooks share a matrix, under whatever name they have it."""

    def named(event: Event) -> Event:
        label = labels.get(full_name(segment.target, event.parameter)) if event.kind == "onload" else None
        return event if label is None else replace(event, parameter=label)

    return replace(segment, events=tuple(named(event) for event in segment.events))
