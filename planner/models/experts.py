"""Splits fused MoE experts into one Linear per expert and projection, as LLM Compressor does before calibration.

In transformers 5 the experts of a layer are one 3-D parameter per projection, which no recipe can
target. llmcompressor modeling/moe/linearize.py linearize_moe replaces each such module. The classes
here have upstream's names (recipes may match them), its submodule names and order, and the same
tensor lifetimes in forward, because these set the memory of a MoE layer.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from types import MethodType
from typing import Any

import torch
from torch.nn import functional

from planner.errors import UnsupportedError
from planner.upstream import EXPERT_COUNT_KEYS, EXPERTS_PER_TOKEN_KEYS, GPT_OSS_EXPERTS, LLAMA4_EXPERTS

Gate = Callable[[torch.Tensor], torch.Tensor]

_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertShape:
    """Sizes of the linear experts that one fused module becomes."""

    experts: int
    hidden: int
    intermediate: int
    bias: bool
    gated: bool
    activation: str
    limit: float | None
    alpha: float | None
    dtype: torch.dtype | None

    def linears(self) -> tuple[tuple[str, int, int, bool], ...]:
        """Name in the expert, in features, out features, bias: in upstream's order of creation."""
        up = ("up_proj", self.hidden, self.intermediate, self.bias)
        gate = ("gate_proj", self.hidden, self.intermediate, self.bias)
        down = ("down_proj", self.intermediate, self.hidden, self.bias)
        return (up, gate, down) if self.gated else (up, down)


class ExpertMLP(torch.nn.Module):
    """One expert; linear_experts.py ExpertMLP."""

    up_proj: torch.nn.Linear
    gate_proj: torch.nn.Linear
    down_proj: torch.nn.Linear

    def __init__(self, shape: ExpertShape, after_up: Gate, device: torch.device) -> None:
        super().__init__()
        self.intermediate_size = shape.intermediate
        for name, inputs, outputs, bias in shape.linears():
            self.add_module(name, _linear(inputs, outputs, bias, device, shape.dtype))
        self.after_up = after_up


class ExpertMLPWithGate(ExpertMLP):
    """gate and up side by side, then the gate function of the fused class."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """One nested expression: a local name would keep the joined halves alive beside down_proj's result."""
        result: torch.Tensor = self.down_proj(
            self.after_up(torch.cat((self.gate_proj(hidden_states), self.up_proj(hidden_states)), dim=-1))
        )
        return result


class ExpertMLPWithoutGate(ExpertMLP):
    """up, activation, down."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """One nested expression, as above."""
        result: torch.Tensor = self.down_proj(self.after_up(self.up_proj(hidden_states)))
        return result


class GptOssExpertMLP(ExpertMLPWithGate):
    """gpt_oss.py GptOssExpertMLP: differs in how weights are copied."""


class LinearExperts2D(torch.nn.ModuleList):
    """The linear experts of one layer, numbered, and after them the activation.

    `all_tokens` is upstream's moe_calibration_context: each expert runs on every token, and only
    the rows routed to it count.
    """

    expert_class: type[ExpertMLP] = ExpertMLPWithGate

    def __init__(
        self, shape: ExpertShape, gate: Callable[..., torch.Tensor], device: torch.device, all_tokens: bool
    ) -> None:
        from transformers.activations import ACT2FN

        activation = ACT2FN[shape.activation]
        after_up = MethodType(gate, self) if shape.gated else activation.forward
        expert_class = self.expert_class if shape.gated else ExpertMLPWithoutGate
        super().__init__(expert_class(shape, after_up, device) for _ in range(shape.experts))
        self.num_experts, self.intermediate_size, self.input_size = shape.experts, shape.intermediate, shape.hidden
        self.alpha, self.limit, self.swiglu_limit = shape.alpha, shape.limit, shape.limit
        self.act_fn = activation
        self.all_tokens = all_tokens

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """As LinearExperts2D.forward: local names hold one expert's last tensors while the next expert runs."""
        total = torch.zeros_like(hidden_states)
        with torch.no_grad():
            routed = functional.one_hot(top_k_index, self.num_experts)
            routed = routed.permute(2, 1, 0)
        for number in range(self.num_experts):
            choice, tokens = torch.where(routed[number])
            expert = self[number]
            output = expert(hidden_states)[tokens] if self.all_tokens else expert(hidden_states[tokens])
            weights = top_k_weights[tokens, choice, None]
            weighted = output * weights
            total.index_add_(0, tokens, weighted.to(total.dtype))
        return total


class GptOssLinearExperts(LinearExperts2D):
    """gpt_oss.py GptOssLinearExperts."""

    expert_class = GptOssExpertMLP


class Llama4LinearExperts(LinearExperts2D):
    """llama4.py Llama4LinearExperts: its input holds every token once for each expert."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # its caller has routed
        """Each expert runs on experts x tokens rows where `all_tokens`, though only its own block counts."""
        view = (self.num_experts, hidden_states.shape[0] // self.num_experts, self.input_size)
        outputs = []
        for number in range(self.num_experts):
            expert = self[number]
            if self.all_tokens:
                output = expert(hidden_states).view(*view)[number]
            else:
                output = expert(hidden_states.view(*view)[number])
            outputs.append(output)
        return torch.cat(outputs, dim=0)


def find_fused_experts(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Name and module of every fused experts module that LLM Compressor would replace, in module order."""
    return [(name, child) for name, child in module.named_modules() if _is_fused(child)]


def linearize(module: torch.nn.Module, config: Any, calibrate_all_experts: bool) -> int:
    """Replace all fused experts inside `module` (a model or a part of one) in place. Returns how many there were.

    `config` is the whole model's. New weights are on the old ones' device; values are copied
    unless that is the meta device.
    """
    fused = find_fused_experts(module)
    for name, experts in fused:
        module.set_submodule(name, linear_experts(experts, config, calibrate_all_experts))
    return len(fused)


def linear_experts(experts: torch.nn.Module, config: Any, calibrate_all_experts: bool) -> LinearExperts2D:
    """The module of linear experts that takes the place of `experts`."""
    from transformers.initialization import no_init_weights

    fused: Any = experts
    shape, device = expert_shape(experts, config), fused.down_proj.device
    with no_init_weights():
        linear = _linear_class(experts)(shape, _gate(experts), device, calibrate_all_experts)
    if shape.gated:
        _check_gate(linear, shape, experts)
    if device.type != "meta":
        _copy_weights(fused, linear, shape)
    return linear.train(experts.training)


def expert_shape(experts: torch.nn.Module, config: Any) -> ExpertShape:
    """What helpers.py MoEConfig.from_config reads from the config, checked against the fused weights.

    Llama 4 is read differently, from the text part of the whole model's config (llama4.py
    Llama4LinearExperts.from_experts_module).
    """
    llama4 = _is(experts, LLAMA4_EXPERTS)
    try:
        own_config = config.text_config if llama4 else getattr(experts, "config", config)
        shape = _llama4_shape(own_config) if llama4 else _shape(own_config, bool(getattr(experts, "has_gate", True)))
    except AttributeError as error:
        raise _refusal(experts, str(error)) from error
    _check_weights(experts, shape)
    return shape


def linear_sizes(experts: Any, config: Any) -> tuple[tuple[int, int], ...]:
    """The tensors of the Linears that one fused module becomes, in their order: (bytes, number of them in a row).

    Raises UnsupportedError as `expert_shape` does.
    """
    shape, itemsize = expert_shape(experts, config), experts.down_proj.element_size()
    sizes = [
        size * itemsize
        for _, inputs, outputs, bias in shape.linears()
        for size in ((inputs * outputs, outputs) if bias else (inputs * outputs,))
    ]
    runs = [(size, len(list(equal))) for size, equal in groupby(sizes * shape.experts)]
    return tuple(runs)


def _shape(config: Any, gated: bool) -> ExpertShape:
    fixed = getattr(config, "model_type", "") in ("gpt_oss", "openai_privacy_filter")
    _first(config, *EXPERTS_PER_TOKEN_KEYS)  # upstream needs one of them, though not here
    return ExpertShape(
        experts=_first(config, *EXPERT_COUNT_KEYS),
        hidden=_first(config, "moe_latent_size", "hidden_size", "hidden_dim"),
        intermediate=_first(config, "moe_intermediate_size", "intermediate_dim", "intermediate_size"),
        bias=fixed or bool(_first(config, "use_bias", "mlp_bias", default=False)),
        gated=gated,
        activation="sigmoid" if fixed else _activation(config),
        limit=7.0 if fixed else _first(config, "swiglu_limit", default=None),
        alpha=1.702 if fixed else None,
        dtype=_first(config, "dtype"),
    )


def _llama4_shape(text_config: Any) -> ExpertShape:
    return ExpertShape(
        experts=text_config.num_local_experts,
        hidden=text_config.hidden_size,
        intermediate=text_config.intermediate_size,
        bias=False,
        gated=True,
        activation=text_config.hidden_act,
        limit=None,
        alpha=None,
        dtype=text_config.dtype,
    )


def _activation(config: Any) -> Any:
    if config.model_type == "lfm2_moe":
        return "silu"
    return _first(config, "hidden_act", "hidden_activation", "mlp_hidden_act", default=None)


def _first(config: Any, *names: str, default: Any = _MISSING) -> Any:
    """The first of these attributes that the config has and that is not None.

    Upstream's one such case is nemotron_h, whose moe_latent_size may be None.
    """
    values = [getattr(config, name) for name in names if hasattr(config, name)]
    if not values and default is _MISSING:
        raise AttributeError(f"the config of {config.model_type} has none of {', '.join(names)}")
    return next((value for value in values if value is not None), None if values else default)


def _check_weights(experts: Any, shape: ExpertShape) -> None:
    """Refuse fused weights of another shape than the config says: upstream, which copies slices of them, fails."""
    down = (shape.intermediate, shape.hidden) if _transposed(experts) else (shape.hidden, shape.intermediate)
    actual, expected = tuple(experts.down_proj.shape), (shape.experts, *down)
    if actual != expected:
        raise _refusal(experts, f"its down_proj is {actual}, the config says {expected}")


def _check_gate(linear: LinearExperts2D, shape: ExpertShape, experts: torch.nn.Module) -> None:
    """Try the gate on a meta tensor: some classes' gates read attributes that linear experts do not have.

    Such a model can be quantized without data; its experts raise UnsupportedError when they run.
    """
    own: list[Any] = [linear[number] for number in range(shape.experts)]
    try:
        own[0].after_up(torch.empty(1, 2 * shape.intermediate, dtype=shape.dtype, device="meta"))
    except AttributeError as error:
        refusal = UnsupportedError(
            f"LLM Compressor cannot run linear experts of {type(experts).__name__} ({error}): "
            "calibration would fail; take a recipe that needs no data"
        )
        for expert in own:
            expert.after_up = _Refusing(refusal)


@dataclass(frozen=True, slots=True)
class _Refusing:
    """A gate that raises its error when it is called."""

    error: UnsupportedError

    def __call__(self, *_: torch.Tensor) -> torch.Tensor:
        raise self.error


def _refusal(experts: torch.nn.Module, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"LLM Compressor cannot make linear experts of {type(experts).__name__}: {reason}; "
        "a job with this model would fail when it starts"
    )


def _is(module: torch.nn.Module, name: tuple[str, str]) -> bool:
    """Whether the module is of exactly this transformers class; a class that was never imported has no instances."""
    return type(module) is getattr(sys.modules.get(name[0]), name[1], None)


def _is_fused(module: torch.nn.Module) -> bool:
    """linearize.py get_non_linearized_moes: a registered class, or a decorated one with fused weights."""
    if _is(module, LLAMA4_EXPERTS) or _is(module, GPT_OSS_EXPERTS):
        return True
    has_up = [isinstance(getattr(module, name, None), torch.nn.Parameter) for name in ("up_proj", "gate_up_proj")]
    return isinstance(getattr(module, "down_proj", None), torch.nn.Parameter) and any(has_up) and _is_decorated(module)


def _is_decorated(module: torch.nn.Module) -> bool:
    """Whether transformers integrations/moe.py use_experts_implementation decorates the class itself.

    Its constructor leaves the decorator's arguments on the instance. A subclass without the
    decorator has them too, but upstream reads the class's own source and does not replace it.
    """
    marked = {"has_gate", "has_bias", "is_transposed", "is_concatenated"} <= vars(module).keys()
    return marked and hasattr(vars(type(module)).get("__init__"), "__wrapped__")


def _transposed(experts: Any) -> bool:
    return True if _is(experts, LLAMA4_EXPERTS) else bool(experts.is_transposed)


def _linear_class(experts: torch.nn.Module) -> type[LinearExperts2D]:
    if _is(experts, LLAMA4_EXPERTS):
        return Llama4LinearExperts
    return GptOssLinearExperts if _is(experts, GPT_OSS_EXPERTS) else LinearExperts2D


def _gate(experts: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """The gate function of the fused class, which the linear experts call as their own method."""
    from transformers.integrations.moe import _default_apply_gate

    if _is(experts, GPT_OSS_EXPERTS):
        return _gpt_oss_gate
    gate: Callable[..., torch.Tensor] = getattr(type(experts), "_apply_gate", _default_apply_gate)
    return gate


def _gpt_oss_gate(self: Any, gate_up: torch.Tensor) -> torch.Tensor:
    """gpt_oss.py GptOssLinearExperts._apply_gate: halves, where the fused class has even and odd columns."""
    gate, up = gate_up.chunk(2, dim=-1)
    gate = gate.clamp(max=self.limit)
    up = up.clamp(min=-self.limit, max=self.limit)
    return (up + 1) * gate * torch.sigmoid(gate * self.alpha)


def _linear(inputs: int, outputs: int, bias: bool, device: torch.device, dtype: torch.dtype | None) -> torch.nn.Linear:
    return torch.nn.Linear(inputs, outputs, bias=bias, device=device, dtype=dtype)


@torch.no_grad()
def _copy_weights(fused: Any, linear: LinearExperts2D, shape: ExpertShape) -> None:
    """Give the linear experts the values of the fused ones."""
    for number in range(shape.experts):
        expert: Any = linear[number]
        for name, weight in _slices(fused, number, "", shape.gated).items():
            getattr(expert, name).weight.copy_(weight)
        if getattr(fused, "has_bias", False):
            for name, bias in _slices(fused, number, "_bias", shape.gated).items():
                getattr(expert, name).bias.copy_(bias)


def _slices(fused: Any, number: int, kind: str, gated: bool) -> dict[str, torch.Tensor]:
    """One expert's part of the fused weights or biases, rows being output features."""
    up, down = (
        getattr(fused, ("gate_up_proj" if gated else "up_proj") + kind)[number],
        getattr(fused, "down_proj" + kind),
    )
    down = down[number]
    if not kind and _transposed(fused):
        up, down = up.T, down.T
    if not gated:
        return {"up_proj": up, "down_proj": down}
    gate, up = (up[0::2], up[1::2]) if _is(fused, GPT_OSS_EXPERTS) else up.chunk(2)
    return {"gate_proj": gate, "up_proj": up, "down_proj": down}
