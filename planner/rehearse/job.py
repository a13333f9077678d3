"""Rehearses a job that no script was written for: the model, recipe and options of `planner plan`."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from planner.compress.schema import Plan
from planner.job import Job
from planner.job_arguments import oneshot_arguments
from planner.measure.files import recipe_argument
from planner.models.architectures import auto_class
from planner.models.build import build_model, model_config
from planner.models.inputs import CONCATENATED, calibration_batch
from planner.models.source import load_source
from planner.recipe.files import ON_STDIN, STDIN, recipe_mapping
from planner.rehearse.child import oneshot
from planner.rehearse.patterns import check_patterns
from planner.rehearse.run import ScriptWish, rehearse

SCRIPT = Path(oneshot.__file__)


def rehearse_job(wish: ScriptWish, model: str, recipe: str, say: Callable[[str], None]) -> Plan:
    """The job as a Plan. Raises what `planner plan` raises for model, recipe and job, and what `rehearse` does."""
    source = load_source(model)
    folder = Path(tempfile.mkdtemp(prefix="planner_rehearse_job_"))
    try:
        config = model_config(source, wish.job.build)
        check_patterns(recipe_mapping(recipe)[1], lambda: build_model(source, wish.job.build))
        home = folder / source.name
        home.mkdir()
        config.save_pretrained(home)
        values = _values(config, wish.job, home)
        values["architecture"] = auto_class(config, source.name)._model_mapping[type(config)].__name__
        values["arguments"] = {**oneshot_arguments(wish.job), "recipe": recipe_argument(recipe)}
        (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")
        plan = rehearse(replace(wish, script=SCRIPT, arguments=(str(folder / "job.json"),)), say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    named: dict[str, object] = {
        "model": plan.model.model_copy(update={"name": source.name}),
        "recipe": ON_STDIN if recipe == STDIN else recipe,
        "job": wish.job.model_copy(update={"alloc_conf": plan.job.alloc_conf}),  # the environment's, it may be
        "notes": tuple(note for note in plan.notes if str(folder) not in note.text),  # the tokenizer is never used
    }
    if plan.script is not None:
        named["script"] = plan.script.model_copy(update={"path": "the job as planner plan takes it", "arguments": ()})
    return plan.model_copy(update=named)


def _values(config: Any, job: Job, home: Path) -> dict[str, Any]:
    pattern = calibration_batch(config, replace(job.batch_shape, batch_size=1), getattr(torch, job.dtype))
    mask = {"loss_mask": {"dtype": "int64", "values": [1] * job.seq_len}} if job.loss_mask else {}
    return {
        "model": str(home),
        "dtype": job.dtype,
        "weights": job.weights,
        "ram": job.ram_for_weights_bytes or 0,
        "linearized": job.linearized,
        "samples": job.samples,
        "batch_size": job.batch_size,
        "sample": {**{name: _field(name, field) for name, field in pattern.fields.items()}, **mask},
    }


def _field(name: str, field: torch.Tensor) -> dict[str, Any]:
    row = field if name in CONCATENATED else field[0]
    about: dict[str, Any] = {"dtype": str(row.dtype).removeprefix("torch."), "shape": list(row.shape)}
    return about if row.device.type == "meta" else {**about, "values": row.tolist()}
