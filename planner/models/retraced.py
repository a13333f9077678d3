"""The whole forward with transforms on modules that hold sequential targets: nodes of the traced graph, in that part of
it where topological_partition puts them (llmcompressor pipelines/sequential/helpers.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from planner.errors import RecipeError
from planner.job import Job
from planner.models.build import num_experts, quiet
from planner.models.built import BuiltModel, unchanged
from planner.models.dataflow import DataflowTracer
from planner.models.experts import linearize
from planner.models.failures import forward_of_model
from planner.models.inputs import calibration_batch
from planner.models.rotated import rotated
from planner.models.traces import Event, ModelTrace, Segment
from planner.models.tuned import OnlineRotation, alone
from planner.models.wrapping import without_lost_masks


def retraced(
    built: BuiltModel, job: Job, targets: Mapping[str, int], rotations: Sequence[OnlineRotation]
) -> ModelTrace:
    """The trace with these transforms, whose modules go by their full names.

    `targets`: sequential targets with the numbers of their structures. Raises RecipeError where the library cannot
    trace the forward with them.
    """
    model: Any = built.module
    if hidden := alone(rotations):  # torch/fx/_symbolic_trace.py Tracer.path_of_module looks for the transform
        first = rotations[min(hidden)]
        text = (
            f"two transforms are called {first.module}.{first.name}: the module keeps the later one, and torch.fx stops"
        )
        raise RecipeError(
            f"{text} at the other one's hook (NameError); take another name for a group, or other targets"
        )
    labels: dict[str, str] = {}
    for rotation in rotations:
        labels[f"{rotation.module}.{rotation.name}.weight"] = rotation.label
        labels[f"{rotation.module}.{rotation.name}.perm"] = f"{rotation.label} permutation"
    batch = calibration_batch(model.config, job.batch_shape, getattr(torch, job.dtype))
    with quiet(), unchanged(model):
        linearize(model, model.config, job.calibrate_all_experts)
        with (
            rotated(model, rotations),
            without_lost_masks(model, list(targets)),
            forward_of_model(),
        ):
            trace = DataflowTracer(model, dict(targets), batch, num_experts(model.config)).run()
    return replace(trace, segments=tuple(_labelled(segment, labels) for segment in trace.segments))


def _labelled(segment: Segment, labels: Mapping[str, str]) -> Segment:
    """Hooks share a matrix, under whatever name they have it."""

    def named(event: Event) -> Event:
        label = labels.get(event.parameter) if event.kind == "onload" else None
        return event if label is None else replace(event, parameter=label)

    return replace(segment, events=tuple(named(event) for event in segment.events))
