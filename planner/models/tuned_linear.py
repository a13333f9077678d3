"""The modules that stand in for a Linear while AutoRound trains its layer: auto_round/wrapper.py."""

from collections.abc import Callable
from typing import Any

import torch

from planner.models.fake_quant import grouped, quantized_inputs, quantized_weight, weight_range
from planner.models.rotated import rotated_inputs, rotated_outputs
from planner.models.tuned import LinearTuning

Move = Callable[[torch.Tensor, int], torch.Tensor]
"""Takes a tensor to a card."""


def stays(tensor: torch.Tensor, _card: int) -> torch.Tensor:
    """On one card nothing is moved."""
    return tensor


class InputRange:
    """The range of a Linear's inputs over all samples: algorithms/composer.py `_register_act_max_hooks`."""

    def __init__(self, how: LinearTuning) -> None:
        self.how = how
        self.range: torch.Tensor | None = None

    def see(self, inputs: torch.Tensor) -> None:
        """composer.py `collect_act_max`, a forward hook."""
        if not inputs.numel():
            return
        inputs, _, _ = grouped(inputs, self.how.input_group)
        act_max = torch.max(torch.abs(inputs), dim=-1).values
        if self.how.global_range:
            largest = act_max.max() if self.range is None else torch.max(act_max.max(), self.range.max())
            self.range = largest.unsqueeze(0)
        else:
            self.range = act_max if self.range is None else torch.max(act_max, self.range)


class TunedLinear(torch.nn.Module):
    """wrapper.py WrapperLinear: a Linear that quantizes its weight, and its input, in every forward.

    `card`: where its weight lies and it computes.
    """

    def __init__(
        self,
        linear: torch.nn.Linear,
        how: LinearTuning,
        observed: InputRange | None,
        whole: Any,
        card: int = 0,
        move: Move = stays,
    ) -> None:
        super().__init__()
        self.linear, self.how, self.observed = linear, how, observed
        self.card, self.move = card, move
        self.whole = whole
        """NVFP4's range of the weight."""
        weight = linear.weight.data
        rows, _, _ = grouped(weight, how.group)
        self.weight_min, self.weight_max = _extremes(rows)
        scales = self.weight_min.shape
        self.value = _parameter(weight, rows.shape, 0)
        self.min_scale = _parameter(weight, scales, 1.0)
        self.max_scale = _parameter(weight, scales, 1.0)
        del rows
        if how.inputs:
            fixed = weight.new_ones((1,), dtype=torch.float32)
            self.input_max = torch.nn.Parameter(fixed) if how.static and not how.global_range else fixed[0]
            self.input_min = weight.new_ones((), dtype=torch.float32)

    @property
    def weight(self) -> Any:
        """Model code may read it of what it takes for a Linear."""
        return self.linear.weight

    @property
    def bias(self) -> Any:
        """As `weight`: model code may read it."""
        return self.linear.bias

    @property
    def trained(self) -> list[Any]:
        """What the optimizer changes, the rounding first."""
        parameters: list[Any] = [self.value, self.min_scale, self.max_scale]
        if isinstance(getattr(self, "input_max", None), torch.nn.Parameter):
            parameters.append(self.input_max)
        return parameters

    @property
    def stays(self) -> list[torch.Tensor]:
        """`unwrapper` sets these on the module: a parameter leaves the GPU with it, and any other tensor stays."""
        numbers = [self.input_max, self.input_min] if self.how.inputs else []
        return [number for number in numbers if not isinstance(number, torch.nn.Parameter)]

    def _quantized(self, value: Any, min_scale: Any, max_scale: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """`_qdq_weight`."""
        min_scale.data.clamp_(0.0, 1.0)
        max_scale.data.clamp_(0.0, 1.0)
        weight = self.linear.weight
        given = self.weight_min, self.weight_max
        weight_q, scale, zp = quantized_weight(self.how, weight, value, min_scale, max_scale, given, self.whole)
        return weight_q.to(weight.dtype), scale, zp

    def quantized_input(self, x: torch.Tensor) -> torch.Tensor:
        """`_qdq_act`."""
        return quantized_inputs(self.how, x, self.input_max, self.observed.range if self.observed else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.move(x, self.card)
        weight_q, *_ = self._quantized(self.value, self.min_scale, self.max_scale)
        x = rotated_inputs(self.linear, x)
        if self.how.inputs:
            x = self.quantized_input(x)
        output = self.move(torch.nn.functional.linear(x, weight_q, self.linear.bias), 0)
        return rotated_outputs(self.linear, x, output)

    def unwrap(self) -> None:
        """`unwrapper`: the weight is quantized with the best parameters, which come from the CPU."""
        v, min_scale, max_scale = (_like(parameter) for parameter in (self.value, self.min_scale, self.max_scale))
        qdq_weight, *_scale_and_zp = self._quantized(v, min_scale, max_scale)
        self.linear.weight.data.copy_(qdq_weight)


class QuantizedInput(torch.nn.Module):
    """wrapper.py WrapperWALayer: the trained Linear, which goes on to quantize its input. It passes over what is hooked
    behind the Linear."""

    def __init__(self, tuned: TunedLinear) -> None:
        super().__init__()
        self.tuned = tuned

    @property
    def weight(self) -> Any:
        """Model code may read it of what it takes for a Linear."""
        return self.tuned.weight

    @property
    def bias(self) -> Any:
        """As `weight`: model code may read it."""
        return self.tuned.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tuned.quantized_input(rotated_inputs(self.tuned.linear, x))
        linear: Callable[[torch.Tensor], torch.Tensor] = self.tuned.linear.forward
        return linear(x)


def there(linear: torch.nn.Linear, card: int, move: Move) -> Callable[..., torch.Tensor]:
    """accelerate's AlignDevicesHook around a Linear's forward: the input comes, and the output goes back."""

    def forward(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        (x,) = (*args, *kwargs.values())  # by its place or by its name, as the Linear's own forward takes it
        x = move(x, card)
        output = torch.nn.functional.linear(x, linear.weight, linear.bias)
        return move(output, 0)

    return forward


def whole_range(linear: torch.nn.Linear, how: LinearTuning) -> torch.Tensor | None:
    """data_type/utils.py update_block_global_scale_if_needed."""
    return weight_range(linear.weight) if how.weights == "nv_fp" else None


def _extremes(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """wrapper.py `_init_tuning_params_and_quant_func`."""
    weight_min = torch.clamp(rows.min(1)[0], max=0)
    return weight_min, torch.clamp(rows.max(1)[0], min=0)


def _parameter(beside: torch.Tensor, shape: Any, value: float) -> torch.nn.Parameter:
    """wrapper.py `_init_params`."""
    return torch.nn.Parameter(beside.new_ones(shape, dtype=torch.float32) * value)


def _like(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.data.new_empty(parameter.shape)
