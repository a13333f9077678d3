"""Quantized Linears while text is generated: each quantizes its weights anew for each token, in many operators.

compressed_tensors/quantization/lifecycle/forward.py set_forward_quantized. Tokens of a length have inputs of the same
shapes, and a Linear keeps nothing: its calls are played, but for those within a call that is recorded as a whole.
"""

import functools
from typing import Any

import torch

from planner.rehearse.child.calls import PlayedModule
from planner.rehearse.child.passing import Passing


def install(passing: Passing) -> None:
    """Play the calls of Linears that are quantized."""
    own: Any = torch.nn.Linear.__call__

    @functools.wraps(own)
    def call(linear: Any, *values: Any, **named: Any) -> Any:
        is_quantized = getattr(linear, "quantization_scheme", None) is not None
        if not is_quantized or PlayedModule.recorded or not passing.may_play(linear):
            return own(linear, *values, **named)
        return passing.stand_in(linear, own)(*values, **named)

    passing.calls[torch.nn.Linear] = call
