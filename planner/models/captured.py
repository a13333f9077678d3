"""What calibration passes to a decoder layer, as AutoRound keeps it and makes batches of it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.errors import JobError, UnsupportedError
from planner.job import Job
from planner.models.build import num_experts
from planner.models.calls import HalfSoftmax, patched_forward
from planner.models.failures import run_forward
from planner.models.inputs import calibration_batch
from planner.models.recorder import Recorder
from planner.models.tuned import TuningRequest

SHARED = ("position_ids", "cache_position", "position_embeddings", "cu_seqlens")
"""auto_round utils/common.py SHARED_CACHE_KEYS: every batch gets the first sample's."""


def passed(model: Any, job: Job, targets: Sequence[str], request: TuningRequest) -> dict[str, Any]:
    """The layer's arguments by name, hidden states last. Raises JobError where AutoRound cannot batch them."""
    arguments = _captured(model, job, targets, request.layer)
    if job.batch_size > 1:
        one = job.model_copy(update={"batch_size": 1})
        refuse_other_rows(arguments, _captured(model, one, targets, request.layer), job, request)
    return arguments


def refuse_other_rows(
    arguments: Mapping[str, Any], single: Mapping[str, Any], job: Job, request: TuningRequest
) -> None:
    """Raises JobError where the library stops: what every batch gets from the first has a row for each sample of it.

    `single`: what a batch of one sample is passed. In Qwen2.5-VL, positions differ from sample to sample, and so do the
    rotations of queries and keys; elsewhere one row of them serves all.
    """
    for name in SHARED:
        kept = pytree.tree_leaves(arguments.get(name)), pytree.tree_leaves(single.get(name))
        differ = any(isinstance(a, torch.Tensor) and a.shape != b.shape for a, b in zip(*kept, strict=True))
        others = sorted({*request.sizes, *request.trained} - {job.batch_size})
        if differ and others:
            raise JobError(
                f"--batch-size {job.batch_size}: LLM Compressor stops at {request.layer}: AutoRound passes all batches "
                f"the {name} of the first one, which has {job.batch_size} rows here, and one of them has {others[0]}; "
                "take --batch-size 1"
            )


class _ReachedError(Exception):
    """The forward came to the layer whose inputs are wanted."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        super().__init__()
        self.arguments = args, kwargs


def _captured(model: Any, job: Job, targets: Sequence[str], layer: str) -> dict[str, Any]:
    """What calibration passes to the layer, by name: base.py input_capture_hook."""
    before = likeness() if job.sequential_targets else _passed_through
    batch = calibration_batch(model.config, job.batch_shape, getattr(torch, job.dtype))
    with torch.no_grad(), ExitStack() as stack:
        for name in targets:
            module = model.get_submodule(name)
            stack.enter_context(patched_forward(module, _stop if name == layer else before(module)))
        stack.enter_context(HalfSoftmax())
        stack.enter_context(Recorder(num_experts(model.config)))
        try:
            run_forward(model, {**batch.fields, "use_cache": False})
        except _ReachedError as reached:
            return _by_name(model.get_submodule(layer), *reached.arguments)
    raise UnsupportedError(f"{layer} is not called in a forward")


def _stop(*args: Any, **kwargs: Any) -> Any:
    raise _ReachedError(args, kwargs)


def _passed_through(_module: torch.nn.Module) -> Callable[..., Any]:
    """A decoder layer's forward, by its end: the output has the shape of the hidden states."""
    return lambda *args, **kwargs: args[0] if args else kwargs["hidden_states"]


def likeness() -> Callable[[torch.nn.Module], Callable[..., Any]]:
    """Makes forwards of other targets than whole layers, such as attention, which returns its weights too.

    The first of a kind runs; those with like weights and arguments return what it did, and do nothing else that it did.
    """
    returned: dict[Any, Any] = {}

    def forward_of(module: torch.nn.Module) -> Callable[..., Any]:
        runs, kind = module.forward, (type(module), *(tuple(weight.shape) for weight in module.parameters()))

        def forward(*args: Any, **kwargs: Any) -> Any:
            leaves, form = pytree.tree_flatten((args, kwargs))
            passed = (str(form), *map(_like, leaves))
            if (kind, passed) not in returned:
                returned[kind, passed] = runs(*args, **kwargs)
            return returned[kind, passed]

        return forward

    return forward_of


def _like(value: Any) -> object:
    """Equal for values with which a forward returns tensors alike."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype
    return value if isinstance(value, (bool, int, float, str)) else type(value)


def _by_name(module: torch.nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """calibration/llm.py forward_capture: tensors, lists, tuples and plain values; hidden states come last."""
    parameters = [name for name in inspect.signature(type(module).forward).parameters if name != "self"]
    hidden = args[0] if args else kwargs["hidden_states"]
    named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
    named |= dict(zip(parameters[1:], args[1:], strict=False))
    kept = {k: v for k, v in named.items() if v is None or isinstance(v, (torch.Tensor, list, tuple, str, bool))}
    return {**kept, parameters[0]: hidden}
