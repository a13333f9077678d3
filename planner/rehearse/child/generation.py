"""`generate` is a step of its own, and runs to the length that was asked for: no token that nobody computed ends it."""

import functools
from typing import Any

import torch

from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.passing import Passing
from planner.rehearse.child.steps import Steps


def install(steps: Steps, passing: Passing, hooks: Hooks) -> None:
    """Wrap both as soon as their modules are there."""
    hooks.after("transformers.generation.stopping_criteria", _never_the_last_token)
    hooks.after("transformers.generation.utils", functools.partial(_as_step, steps, passing))


def _never_the_last_token(module: Any) -> None:
    def call(_criteria: Any, input_ids: Any, _scores: Any, **_named: Any) -> Any:
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    module.EosTokenCriteria.__call__ = call


def _as_step(steps: Steps, passing: Passing, module: Any) -> None:
    own = module.GenerationMixin.generate

    @functools.wraps(own)
    def generate(*values: Any, **named: Any) -> Any:
        if steps.phase != "script":
            return own(*values, **named)
        before = steps.marked
        steps.begin("script")
        steps.marked = "generate"
        try:
            with passing.generating(values[0] if values else None):
                return own(*values, **named)
        finally:
            steps.begin("script")
            steps.marked = before

    module.GenerationMixin.generate = generate
