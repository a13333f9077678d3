"""Whom a forward hands one more keyword argument to: the basic pipeline calls `model(**batch)` with all of a batch."""

from collections.abc import Mapping
from typing import Any

import torch

from planner.job import Job
from planner.models.build import num_experts, quiet
from planner.models.built import BuiltModel, unchanged
from planner.models.experts import linearize
from planner.models.failures import forward_of_model
from planner.models.inputs import CalibrationBatch, calibration_batch
from planner.models.traces import full_name
from planner.models.tracing import ModelTracer
from planner.models.wrapping import without_lost_masks


def receivers(built: BuiltModel, job: Job, targets: Mapping[str, int], keyword: str) -> frozenset[str]:
    """Full names of the modules that are passed an int64 for each token under this name.

    `targets`: sequential targets with the numbers of their structures. Raises UnsupportedError where the forward does
    not run with it.
    """
    model: Any = built.module
    batch = calibration_batch(model.config, job.batch_shape, getattr(torch, job.dtype))
    more = torch.ones_like(batch.fields["input_ids"])
    with quiet(), unchanged(model):
        for name in {number: name for name, number in reversed(list(targets.items()))}.values():
            linearize(model.get_submodule(name), model.config, job.calibrate_all_experts)
        with without_lost_masks(model, list(targets)), forward_of_model():
            fields = {**batch.fields, keyword: more}
            experts = num_experts(model.config)
            trace = ModelTracer(model, dict(targets), CalibrationBatch(fields=fields), experts).run()
    return frozenset(
        full_name(segment.target, event.call.module)
        for segment in trace.segments
        for event in segment.events
        if event.call is not None and any(value.name == keyword for value in event.call.arguments)
    )
